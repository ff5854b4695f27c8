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
        speed: times as fast as the faster PEFT without dropout, the same computation as ours.
        speed_usual: times as fast as the faster PEFT with the model's dropout; None where that was not measured.
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
    speed_usual: float | None
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
    best = _fastest([contender.name for contender in contenders if contender.reference], rounds)
    if not best:
        raise RuntimeProblem(f"Nothing to hold {work.name} against: measure PEFT too.")
    usual = _fastest([contender.name for contender in contenders if contender.usual], rounds)
    return [_row(work, contender, [seen[contender.name] for seen in rounds], best, usual) for contender in contenders]


def _fastest(names: Sequence[str], rounds: Sequence[Round]) -> list[Figures]:
    """Of these contenders, in each round; empty without any."""
    return [min((seen[name] for name in names), key=lambda figures: figures.seconds) for seen in rounds if names]


def _speed(turns: Sequence[Figures], against: Sequence[Figures]) -> float | None:
    if not against:
        return None
    return statistics.median(b.seconds / turn.seconds for turn, b in zip(turns, against, strict=True))


def _row(
    work: Work, contender: Contender, turns: Sequence[Figures], best: Sequence[Figures], usual: Sequence[Figures]
) -> Row:
    first = [turn.first_epoch_seconds for turn in turns if turn.first_epoch_seconds is not None]
    aimed = contender.precision if contender.job.way == TARGET_PRESET else None
    return Row(
        work=work.name,
        contender=contender.name,
        seconds=statistics.median(turn.seconds for turn in turns),
        peak_mib=statistics.median(turn.peak_bytes for turn in turns) / 2**20,
        speed=_speed(turns, best) or 0.0,
        speed_usual=_speed(turns, usual),
        memory=statistics.median(turn.peak_bytes / b.peak_bytes for turn, b in zip(turns, best, strict=True)),
        trainable=turns[0].trainable,
        loss=turns[0].loss,
        first_epoch_seconds=statistics.median(first) if first else None,
        target=work.targets.get(aimed, Target()) if aimed else Target(),
        turns=tuple(turn.seconds for turn in turns),
        others=max(turn.others for turn in turns),
    )
