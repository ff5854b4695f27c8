"""The round state machine as a pure function: facts in, next step out.

    (none) --open--> selecting --select--> collecting --close--> aggregating --publish--> published
                                               |
                                               +------abandon--> abandoned

A run ends when its planned rounds are published; an abandoned round is followed by another one. The rounds of an
asynchronous run select nobody, are collecting from the first, close as soon as the buffer is full, and are never
abandoned.
"""

from dataclasses import dataclass
from enum import StrEnum

from server.records import RoundState
from server.settings import RunOptions


class Step(StrEnum):
    """What the coordinator does next."""

    OPEN = "open"
    SELECT = "select"
    CLOSE = "close"
    ABANDON = "abandon"
    PUBLISH = "publish"
    FINISH = "finish"
    WAIT = "wait"


@dataclass(frozen=True)
class Facts:
    """What the next step depends on.

    Attributes:
        now: Unix time, seconds.
        published: rounds published so far.
        state: of the newest round, None before the first.
        present: ids of devices that could be selected.
        selected: devices with a part in the newest round.
        received: of these, updates counted; of an asynchronous run, updates in the buffer.
        failed: of these, parts given back.
        deadline: of the newest round.
    """

    now: float
    published: int
    state: RoundState | None
    present: tuple[str, ...] = ()
    selected: int = 0
    received: int = 0
    failed: int = 0
    deadline: float | None = None


def next_step(options: RunOptions, facts: Facts) -> Step:
    """The one step that the facts call for."""
    match facts.state:
        case None | RoundState.PUBLISHED | RoundState.ABANDONED:
            return Step.FINISH if facts.published >= options.rounds else Step.OPEN
        case RoundState.SELECTING:
            return Step.SELECT if len(facts.present) >= devices_needed(options) else Step.WAIT
        case RoundState.COLLECTING:
            return _collecting(options, facts)
        case RoundState.AGGREGATING:
            return Step.PUBLISH


def devices_needed(options: RunOptions) -> int:
    """How many devices must be present before a round selects."""
    return max(options.min_devices, options.clients_per_round)


def selection_size(options: RunOptions) -> int:
    """How many devices a round selects, if so many are present."""
    return options.clients_per_round + options.over_select


def _collecting(options: RunOptions, facts: Facts) -> Step:
    if options.is_async:
        return Step.CLOSE if facts.received >= options.buffer else Step.WAIT
    settled = facts.received + facts.failed >= facts.selected
    late = facts.deadline is not None and facts.now >= facts.deadline
    if facts.received >= options.clients_per_round:
        return Step.CLOSE
    if settled or late:
        return Step.CLOSE if facts.received >= options.min_updates else Step.ABANDON
    return Step.WAIT
