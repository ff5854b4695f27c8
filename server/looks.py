"""What the services and the coordinator must know of the state, each read in one go."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from server.errors import Conflict
from server.records import Assignment, AssignmentState, Device, Round, RoundState, Run, RunState
from server.rounds import Facts
from server.state import State


class Standing(NamedTuple):
    """Where a device stands: in which run, its newest round, the round in question, and with what part in that."""

    run: Run
    newest: Round | None = None
    round: Round | None = None
    part: Assignment | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the round in question waits for the device's update."""
        collects = self.round is not None and self.round.state is RoundState.COLLECTING
        return collects and self.part is not None and self.part.state is AssignmentState.ASSIGNED


def standing(state: State, device: Device, accept: Callable[[Run], float], *, seen: bool) -> Standing | None:
    """Of a device that checks in, in the newest round of the run that goes on; None without one.

    One that any device may join, it joins. ``accept`` refuses a device that is of no use to the run, and says which
    share of the heads any other is given; that one is recorded unless it was ``seen`` already.
    """
    run = state.active_run()
    if run:
        device = replace(device, head_budget=accept(run))
    if not seen:
        state.see_device(device)
    if run is None:
        return None
    newest = state.current_round(run.run_id)
    if newest is None or run.state is RunState.PAUSED:
        return Standing(run, newest)
    mine = Assignment(run.run_id, newest.number, device.device_id, head_budget=device.head_budget)
    joins = run.options.is_async and newest.state is RoundState.COLLECTING
    return Standing(run, newest, newest, state.join(mine) if joins else state.assignment(*mine.key))


def counts(part: Assignment | None, sha256: str) -> bool:
    """Whether a part counts this very update already.

    Raises:
        Conflict: it counts another one.
    """
    if part is None or part.state is not AssignmentState.RECEIVED:
        return False
    if part.sha256 != sha256:
        raise Conflict("Another update by this device is already counted: check in for the next round.")
    return True


def uploading(state: State, device_id: str, run_id: str, number: int, sha256: str) -> Standing | None:
    """``bound`` for an upload; None if it is counted already, in whatever state its round is by now.

    Raises:
        Conflict: another update is counted.
        NotFound: there is no run of this id.
    """
    if counts(state.assignment(run_id, number, device_id), sha256):
        return None
    return bound(state, device_id, run_id, number)


def bound(state: State, device_id: str, run_id: str, number: int) -> Standing:
    """Of a device in a round that it names.

    Raises:
        NotFound: there is no run of this id.
    """
    run = state.run(run_id)
    found = newest = state.current_round(run_id)
    if newest is None or number > newest.number:
        return Standing(run, newest)
    if number < newest.number:
        found = next((r for r in state.rounds(run_id) if r.number == number), None)
    return Standing(run, newest, found, state.assignment(run_id, number, device_id) if found else None)


def turn(state: State, now: float, wait: Callable[[Run], float]) -> tuple[Run | None, Round | None, Facts | None]:
    """The run that goes on with its ``facts``, which an active one alone has."""
    run = state.active_run()
    if run is None or run.state is not RunState.ACTIVE:
        return run, None, None
    return run, *facts(state, run, now, wait(run))


def facts(state: State, run: Run, now: float, wait: float) -> tuple[Round | None, Facts]:
    """A run's newest round, and what its next step depends on; ``wait`` is the longest between two check-ins."""
    current, parts, present = state.current_round(run.run_id), dict[AssignmentState, int](), tuple[str, ...]()
    if current and current.state is RoundState.COLLECTING:
        parts = state.count_parts(run.run_id, current.number)
    if current and current.state is RoundState.SELECTING:  # who is expected back within a wait or two
        present = tuple(state.present_devices(run.run_id, now - 2 * wait - 5))
    received = parts.get(AssignmentState.RECEIVED, 0)
    return current, Facts(
        now=now,
        published=state.count_published(run.run_id),
        state=current.state if current else None,
        present=present,
        selected=sum(parts.values()),
        received=state.buffered(run.run_id) if run.options.is_async else received,
        failed=parts.get(AssignmentState.FAILED, 0),
        deadline=current.deadline if current else None,
    )
