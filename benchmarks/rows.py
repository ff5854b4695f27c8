"""Rounds of turns, and what they amount to: medians, and ratios to the faster PEFT of the same round."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders import Contender, Figures
from benchmarks.works import Target, Work
from ravan.errors import RuntimeProblem

TARGET_PRESET = "fast"  # the targets are for a device that does nothing else
Round = Mapping[str, Figures]
"""Figures by the name of the contender."""


@dataclass(frozen=True)
class Row:
    """One contender in one work.

    Attributes:
        seconds: of a step, or of a round; the median over the rounds, as all figures but ``loss``.
        peak_mib: of the process.
        speed: times as fast as PEFT.
        memory: share of PEFT's peak.
        trainable: trained parameters.
        loss: of the first mini-batch; where all is right, about the same for all contenders of a work.
        first_epoch_seconds: a step while the cache is filled; None without one.
        target: what was aimed at.
        turns: seconds of every round.
        others: most of the cores' time that other processes took during a turn.
    """

    work: str
    contender: str
    seconds: float
    peak_mib: float
    speed: float
    memory: float
    trainable: int
    loss: float
    first_epoch_seconds: float | None
    target: Target
    turns: tuple[float, ...]
    others: float


def take_turns(contenders: Sequence[Contender], rounds: int, say: Callable[[str], None]) -> list[Round]:
    """Every contender once a round; every second round backwards, so that none always follows the same.

    Raises:
        RuntimeProblem: a process failed.
    """
    seen: list[Round] = []
    for number in range(rounds):
        order = contenders if number % 2 == 0 else contenders[::-1]
        figures: dict[str, Figures] = {}
        for contender in order:
            figures[contender.name] = contender.measure()
            say(f"  round {number + 1}, {contender.name}: {figures[contender.name].seconds:.3f} s")
        seen.append(figures)
    return seen


def summary(work: Work, contenders: Sequence[Contender], rounds: Sequence[Round]) -> list[Row]:
    """A row per contender."""
    references = [contender.name for contender in contenders if contender.reference]
    if not references:
        raise RuntimeProblem(f"Nothing to hold {work.name} against: measure PEFT too.")
    best = [min((seen[name] for name in references), key=lambda figures: figures.seconds) for seen in rounds]
    return [_row(work, contender, [seen[contender.name] for seen in rounds], best) for contender in contenders]


def _row(work: Work, contender: Contender, turns: Sequence[Figures], best: Sequence[Figures]) -> Row:
    first = [turn.first_epoch_seconds for turn in turns if turn.first_epoch_seconds is not None]
    aimed = contender.precision if contender.job.way == TARGET_PRESET else None
    return Row(
        work=work.name,
        contender=contender.name,
        seconds=statistics.median(turn.seconds for turn in turns),
        peak_mib=statistics.median(turn.peak_bytes for turn in turns) / 2**20,
        speed=statistics.median(b.seconds / turn.seconds for turn, b in zip(turns, best, strict=True)),
        memory=statistics.median(turn.peak_bytes / b.peak_bytes for turn, b in zip(turns, best, strict=True)),
        trainable=turns[0].trainable,
        loss=turns[0].loss,
        first_epoch_seconds=statistics.median(first) if first else None,
        target=work.targets.get(aimed, Target()) if aimed else Target(),
        turns=tuple(turn.seconds for turn in turns),
        others=max(turn.others for turn in turns),
    )
