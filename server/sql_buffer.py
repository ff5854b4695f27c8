"""Which round an update counts in: the one it was made for, or in an asynchronous run the one that empties the buffer.

The buffer is what an asynchronous run has received and not folded, in the order of receipt. A round takes the oldest K
out of it, so that it is known at receipt how stale an update will be at most when it is folded.
"""

from typing import Any

from sqlalchemy import Connection, case, func, select, update

from server import sql_queries
from server.errors import RoundClosed, TooStale, WrongState
from server.records import Assignment, AssignmentState, RoundState, RunState
from server.settings import RunOptions
from server.sql_rows import options_from
from server.sql_tables import assignments, rounds, runs

counted_in: Any = case((assignments.c.sequence.is_(None), assignments.c.round), else_=assignments.c.folded_in)
"""``Assignment.counts_in``."""


def expect(db: Connection, part: Assignment) -> int | None:
    """Refuses an update that no round takes; returns its place in the order of receipt of an asynchronous run.

    The answer holds until the end of the transaction: whoever closes a round, or counts another update of an
    asynchronous run, waits for it.

    Raises:
        RoundClosed, TooStale: see ``State.expect``.
    """
    mine = sql_queries.part(*part.key)
    options = options_from(db.execute(sql_queries.RUN_OPTIONS, mine).scalar_one())
    if options.is_async:
        return _place(db, part, options)
    if db.execute(sql_queries.HELD_ROUND, mine).scalar() != RoundState.COLLECTING:
        raise RoundClosed(f"Round {part.round} is closed: drop the update and check in.")
    return None


def _place(db: Connection, part: Assignment, options: RunOptions) -> int:
    mine = select(runs.c.state).where(runs.c.run_id == part.run_id).with_for_update()
    state = RunState(db.execute(mine).scalar_one())
    number = _next_fold(db, part.run_id, options.buffer)
    if state.ended or number > options.rounds:
        raise RoundClosed(f"Run {part.run_id} takes no more updates: drop the update and check in.")
    if number - part.round > options.max_staleness:
        raise TooStale(
            f"{number - part.round} adapters will have been published since this update began, at most "
            f"{options.max_staleness} may be: drop the update and check in."
        )
    last = select(func.max(assignments.c.sequence)).where(assignments.c.run_id == part.run_id)
    return int(db.execute(last).scalar() or 0) + 1


def _next_fold(db: Connection, run_id: str, size: int) -> int:
    """The round that the next update to come would count in."""
    newest = select(rounds.c.number, rounds.c.state).where(rounds.c.run_id == run_id).order_by(rounds.c.number.desc())
    row = db.execute(newest.limit(1)).first()
    if row is None:
        return 1
    unfolded = row.number if row.state == RoundState.COLLECTING else row.number + 1
    return int(unfolded) + buffered(db, run_id) // size


def buffered(db: Connection, run_id: str) -> int:
    """How many updates are in the buffer."""
    return int(db.execute(select(func.count()).where(_is_buffered(run_id))).scalar_one())


def fill(db: Connection, run_id: str, number: int, size: int) -> None:
    """Takes the oldest updates out of the buffer for a round.

    Raises:
        WrongState: there are fewer.
    """
    c = assignments.c
    oldest = select(c.sequence).where(_is_buffered(run_id)).order_by(c.sequence).limit(size).with_for_update()
    taken = list(db.execute(oldest).scalars())
    if len(taken) < size:
        raise WrongState(f"Round {number} has {len(taken)} updates of {size}: look at ravan-server status.")
    db.execute(update(assignments).where(c.run_id == run_id, c.sequence.in_(taken)).values(folded_in=number))


def counts_in(number: int) -> Any:
    """Parts whose updates count in a round."""
    return counted_in == number


def is_round(run_id: str, number: int) -> Any:
    """A round's row."""
    return (rounds.c.run_id == run_id) & (rounds.c.number == number)


def _is_buffered(run_id: str) -> Any:
    c = assignments.c
    received = (c.run_id == run_id) & (c.state == AssignmentState.RECEIVED)
    return received & c.sequence.is_not(None) & c.folded_in.is_(None)
