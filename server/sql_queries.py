"""Statements that devices' calls need, built once: building one takes longer than running it."""

from typing import Any

from sqlalchemy import BigInteger, bindparam, delete, func, select, update

from server.records import RoundState, RunState
from server.sql_tables import assignments, holders, nonces, rounds, runs

PART = (
    (assignments.c.run_id == bindparam("of_run"))
    & (assignments.c.round == bindparam("of_round"))
    & (assignments.c.device_id == bindparam("of_device"))
)
ROUND = (rounds.c.run_id == bindparam("of_run")) & (rounds.c.number == bindparam("of_round"))

RUN = select(runs).where(runs.c.run_id == bindparam("of_run"))
RUN_OPTIONS = select(runs.c.options).where(runs.c.run_id == bindparam("of_run"))
ACTIVE_RUN = select(runs).where((runs.c.state == RunState.ACTIVE) | (runs.c.state == RunState.PAUSED)).limit(1)
NEWEST_ROUND = select(rounds).where(rounds.c.run_id == bindparam("of_run")).order_by(rounds.c.number.desc()).limit(1)
PUBLISHED = select(func.count().label("published")).where(
    rounds.c.run_id == bindparam("of_run"), rounds.c.state == RoundState.PUBLISHED
)
HELD_ROUND = select(rounds.c.state).where(ROUND).with_for_update(read=True)
"""A round's state, which stays so until the end of the transaction."""

ASSIGNMENT = select(assignments).where(PART)
HOLD_PART = update(assignments).where(PART).values(state=assignments.c.state)
"""Takes the lock of writers, the row's or the whole database's."""
UPDATE_OF_PART = select(assignments.c.state, assignments.c.sha256).where(PART)
PARTS_BY_STATE = (
    select(assignments.c.state, func.count().label("parts"))
    .where(assignments.c.run_id == bindparam("of_run"), assignments.c.round == bindparam("of_round"))
    .group_by(assignments.c.state)
)
SET_PART = update(assignments).where(PART)
"""Sets what it is given beside the part."""
COUNT_DOWN = (
    update(assignments).where(PART).values(bytes_down=assignments.c.bytes_down + bindparam("more", type_=BigInteger))
)
HOLDER = select(holders).where(holders.c.public_key == bindparam("of_key"))
FORGET_NONCES = delete(nonces).where(nonces.c.expires_at < bindparam("before"))
REVOKED = select(holders.c.device_id).where(
    holders.c.revoked_at.is_not(None), holders.c.device_id == bindparam("of_device")
)


def part(run_id: str, number: int, device_id: str) -> dict[str, Any]:
    """What ``PART`` is asked with."""
    return {"of_run": run_id, "of_round": number, "of_device": device_id}
