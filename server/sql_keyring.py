"""Tokens, device keys and nonces in the SQL state."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from server import sql_queries
from server.errors import Conflict, ExpiredToken, Revoked, UsedToken, WrongToken
from server.records import AssignmentState, Holder, Nonce, RoundState
from server.sql_database import SqlDatabase
from server.sql_tables import assignments, holders, rounds, tokens
from server.sql_tables import nonces as used

TOKENS_KEPT = 30 * 86_400.0
"""Seconds after their expiry for which tokens are known as used or expired rather than wrong."""
REVOKED, LEFT = "revoked by the operator", "left"


class SqlKeyring(SqlDatabase):
    """``Keyring`` over a SQLAlchemy engine; see there for what each method promises."""

    def add_tokens(self, hashes: Sequence[str], now: float, expires_at: float) -> None:
        with self.transaction() as db:
            db.execute(delete(tokens).where(tokens.c.expires_at < now - TOKENS_KEPT))
            if hashes:
                db.execute(insert(tokens), [{"token_hash": h, "expires_at": expires_at} for h in hashes])

    def enroll(self, token_hash: str, holder: Holder) -> None:
        mine = tokens.c.token_hash == token_hash
        with self.transaction() as db:
            self.alone(db, "keys")
            # Writing first takes the lock, the row's or the whole database's, so that a token is used once.
            db.execute(update(tokens).where(mine).values(expires_at=tokens.c.expires_at))
            token = db.execute(select(tokens).where(mine)).first()
            if token is None:
                raise WrongToken("There is no such token: ask the operator for one.")
            if token.device_id not in (None, holder.device_id):
                raise UsedToken("Another device enrolled with this token: ask the operator for a new one.")
            if token.device_id is None and token.expires_at <= holder.enrolled_at:
                raise ExpiredToken("The token has expired: ask the operator for a new one.")
            if not _is_enrolled(db, holder):
                db.execute(insert(holders).values(asdict(holder)))
            db.execute(update(tokens).where(mine).values(device_id=holder.device_id))

    def holder(self, public_key: str) -> Holder | None:
        row = self.first(sql_queries.HOLDER, of_key=public_key)
        return None if row is None else Holder(**row)

    def holders(self) -> list[Holder]:
        return [Holder(**row) for row in self.all(select(holders).order_by(holders.c.enrolled_at))]

    def rotate(self, device_id: str, public_key: str) -> None:
        mine = (holders.c.device_id == device_id) & holders.c.revoked_at.is_(None)
        with self.transaction() as db:
            self.alone(db, "keys")
            db.execute(update(holders).where(mine).values(public_key=holders.c.public_key))
            owner = db.execute(select(holders.c.device_id).where(holders.c.public_key == public_key)).scalar()
            if owner not in (None, device_id):
                raise Conflict("Another device has this key: make a new one.")
            if db.execute(update(holders).where(mine).values(public_key=public_key)).rowcount != 1:
                raise Revoked("This device is not enrolled any more: ask the operator for a token.")

    def revoke(self, device_id: str, now: float) -> None:
        with self.transaction() as db:
            _end(db, device_id, REVOKED, {"revoked_at": now})

    def leave(self, device_id: str, now: float) -> int:
        with self.transaction() as db:
            _end(db, device_id, LEFT, {"revoked_at": now, "left_at": now})
            received = assignments.c.state == AssignmentState.RECEIVED
            counted = select(func.count()).where(received, assignments.c.device_id == device_id)
            return int(db.execute(counted).scalar_one())

    def remember(self, nonces: Sequence[Nonce], now: float) -> list[bool]:
        # In one order, so that two servers with the same nonces don't wait for one another.
        distinct = sorted({(n.nonce, n.public_key): asdict(n) for n in nonces}.items())
        with self.transaction() as db:
            db.execute(sql_queries.FORGET_NONCES, {"before": now})
            rows = db.execute(self._keep_nonces, [row for _, row in distinct]) if distinct else ()
            fresh = {(row.nonce, row.public_key) for row in rows}
        told = []
        for nonce in nonces:
            pair = nonce.nonce, nonce.public_key
            told.append(pair in fresh)
            fresh.discard(pair)
        return told

    @cached_property
    def _keep_nonces(self) -> Any:
        return self.insert_into(used).on_conflict_do_nothing().returning(used.c.nonce, used.c.public_key)

    def remembers(self, nonce: Nonce) -> bool:
        mine = (used.c.public_key == nonce.public_key) & (used.c.nonce == nonce.nonce)
        return self.first(select(used).where(mine)) is not None


def _end(db: Connection, device_id: str, why: str, times: Mapping[str, float]) -> None:
    """Takes a device's rights, and its parts out of what still collects."""
    mine = (holders.c.device_id == device_id) & holders.c.revoked_at.is_(None)
    db.execute(update(holders).where(mine).values(times))
    collecting = select(rounds.c.number).where(
        rounds.c.run_id == assignments.c.run_id, rounds.c.state == RoundState.COLLECTING
    )
    unfolded = assignments.c.round.in_(collecting) & assignments.c.sequence.is_(None)
    unfolded |= assignments.c.sequence.is_not(None) & assignments.c.folded_in.is_(None)
    part = (assignments.c.device_id == device_id) & unfolded
    failed = {"state": AssignmentState.FAILED, "sha256": None, "failure": why}
    db.execute(update(assignments).where(part).values(failed))


def _is_enrolled(db: Connection, holder: Holder) -> bool:
    """Whether the device is enrolled with this key already.

    Raises:
        Revoked, Conflict: it is revoked, or has another key by now.
    """
    row = db.execute(select(holders).where(holders.c.device_id == holder.device_id)).first()
    if row is None:
        return False
    if row.revoked_at is not None:
        raise Revoked("This key was revoked: enroll again, with a new token and a new key.")
    if row.public_key != holder.public_key:
        raise Conflict("This key was replaced by a newer one: enroll again, with a new token and a new key.")
    return True
