"""The state in a SQL database, through SQLAlchemy Core; SQLite in a folder is the embedded default."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ravan.errors import EnvironmentProblem
from ravan.runtime.session import Evaluation
from server import sql_queries
from server.errors import Conflict, NotFound, NotSelected, Revoked, WrongState
from server.records import Assignment, AssignmentState, Device, Release, Round, RoundState, Run, RunState
from server.sql_buffer import buffered, counted_in, counts_in, expect, fill, is_round
from server.sql_database import WRITES
from server.sql_keyring import SqlKeyring
from server.sql_rows import assignment_from, assignment_row, evaluation_row, release_from, round_from, row_of, run_from
from server.sql_tables import assignments, create_tables, devices, holders, metadata, releases, rounds, runs

DATABASE = "state.sqlite"
_BUSY = [RunState.ACTIVE, RunState.PAUSED]
_REVOKED = select(holders.c.device_id).where(holders.c.revoked_at.is_not(None))
_OPEN = [RoundState.SELECTING, RoundState.COLLECTING, RoundState.AGGREGATING]


def open_sqlite(folder: Path, patience: float = 10) -> "SqlState":
    """The state in ``folder/state.sqlite``: write-ahead log, and every commit synced before it returns.

    A database locked by another program is waited for, ``patience`` seconds.

    Raises:
        EnvironmentProblem: the folder can't be written, or the file is no database.
    """
    engine = create_engine(URL.create("sqlite", database=str(folder / DATABASE)), connect_args={"timeout": patience})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # sqlite3 would begin no transaction before the first change
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        # Who reads first and writes later would be refused at once, not made to wait, while another program writes.
        db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get(WRITES) else "BEGIN")

    try:
        return SqlState(engine)
    except SQLAlchemyError as error:
        reason = error.orig if isinstance(error, OperationalError) else error
        raise EnvironmentProblem(
            f"{folder / DATABASE} can't be used ({reason}): choose another state folder."
        ) from error


class SqlState(SqlKeyring):
    """``State`` over a SQLAlchemy engine; see there for what each method promises."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        create_tables(engine, metadata)

    def create_run(self, run: Run) -> None:
        with self.transaction() as db:
            self.alone(db, "create run")
            if db.execute(select(runs.c.run_id).where(runs.c.state.in_(_BUSY))).first():
                raise WrongState("Another run is active: let it finish or stop it first.")
            row = {"options": run.options.model_dump_json(), **evaluation_row(run.initial)}
            db.execute(insert(runs).values(row_of(run, "options", "initial") | row))

    def runs(self) -> list[Run]:
        return [run_from(row) for row in self.all(select(runs).order_by(runs.c.created_at.desc()))]

    def run(self, run_id: str) -> Run:
        row = self.first(sql_queries.RUN, of_run=run_id) if run_id.isprintable() else None
        if row is None:
            raise NotFound(f"There is no run {run_id!r}: see ravan-server status.")
        return run_from(row)

    def active_run(self) -> Run | None:
        row = self.first(sql_queries.ACTIVE_RUN)
        return None if row is None else run_from(row)

    def set_run_state(self, run_id: str, state: RunState, now: float) -> None:
        with self.transaction() as db:
            busy = (runs.c.run_id == run_id) & runs.c.state.in_(_BUSY)
            if db.execute(update(runs).where(busy).values(state=state)).rowcount != 1:
                raise WrongState(f"Run {run_id} has ended and can't become {state}: create a new run.")
            if state.ended:
                still_open = (rounds.c.run_id == run_id) & rounds.c.state.in_(_OPEN)
                db.execute(update(rounds).where(still_open).values(state=RoundState.ABANDONED, closed_at=now))

    def record_initial(self, run_id: str, evaluation: Evaluation) -> None:
        with self.transaction() as db:
            db.execute(update(runs).where(runs.c.run_id == run_id).values(evaluation_row(evaluation)))

    def see_device(self, device: Device) -> None:
        with self.transaction() as db:
            db.execute(self._see_device, row_of(device))

    @cached_property
    def _see_device(self) -> Any:
        new, kept = self.insert_into(devices), {"device_id", "bytes_down", "failure"}
        seen = {column.name: new.excluded[column.name] for column in devices.c if column.name not in kept}
        return new.on_conflict_do_update(index_elements=[devices.c.device_id], set_=seen)

    def devices(self) -> list[Device]:
        rows = self.all(select(devices).order_by(devices.c.last_seen.desc(), devices.c.device_id))
        return [Device(**row) for row in rows]

    def count_present(self, since: float) -> int:
        row = self.first(select(func.count().label("count")).where(devices.c.last_seen >= since))
        return 0 if row is None else int(row["count"])

    def present_devices(self, run_id: str, since: float) -> list[str]:
        open_rounds = select(rounds.c.number).where(
            rounds.c.run_id == run_id, rounds.c.state.in_([RoundState.COLLECTING, RoundState.AGGREGATING])
        )
        working = select(assignments.c.device_id).where(
            assignments.c.run_id == run_id,
            assignments.c.state == AssignmentState.ASSIGNED,
            assignments.c.round.in_(open_rounds),
        )
        query = select(devices.c.device_id).where(
            devices.c.last_seen >= since, devices.c.device_id.not_in(working), devices.c.device_id.not_in(_REVOKED)
        )
        return [row["device_id"] for row in self.all(query.order_by(devices.c.device_id))]

    def open_round(self, opened: Round) -> None:
        with self.transaction() as db:
            db.execute(insert(rounds).values(row_of(opened, "evaluation") | evaluation_row(opened.evaluation)))

    def rounds(self, run_id: str) -> list[Round]:
        return [
            round_from(row)
            for row in self.all(select(rounds).where(rounds.c.run_id == run_id).order_by(rounds.c.number))
        ]

    def count_published(self, run_id: str) -> int:
        row = self.first(sql_queries.PUBLISHED, of_run=run_id)
        return int(row["published"]) if row else 0

    def current_round(self, run_id: str) -> Round | None:
        row = self.first(sql_queries.NEWEST_ROUND, of_run=run_id)
        return None if row is None else round_from(row)

    def select(self, run_id: str, number: int, device_ids: list[str], deadline: float) -> None:
        with self.transaction() as db:
            _move(db, run_id, number, RoundState.SELECTING, state=RoundState.COLLECTING, deadline=deadline)
            known = select(devices.c.device_id, devices.c.head_budget).where(devices.c.device_id.in_(device_ids))
            budgets = {row.device_id: row.head_budget for row in db.execute(known)}
            parts = [Assignment(run_id, number, each, head_budget=budgets.get(each)) for each in device_ids]
            if parts:
                db.execute(insert(assignments), [assignment_row(part) for part in parts])

    def extend_deadline(self, run_id: str, number: int, deadline: float) -> None:
        with self.transaction() as db:
            _move(db, run_id, number, RoundState.COLLECTING, deadline=deadline)

    def assignments(self, run_id: str, number: int | None = None) -> list[Assignment]:
        query = select(assignments).where(assignments.c.run_id == run_id)
        if number is not None:
            query = query.where(assignments.c.round == number)
        return [assignment_from(row) for row in self.all(query.order_by(assignments.c.round, assignments.c.device_id))]

    def assignment(self, run_id: str, number: int, device_id: str) -> Assignment | None:
        row = self.first(sql_queries.ASSIGNMENT, **sql_queries.part(run_id, number, device_id))
        return None if row is None else assignment_from(row)

    def count_parts(self, run_id: str, number: int) -> dict[AssignmentState, int]:
        rows = self.all(sql_queries.PARTS_BY_STATE, of_run=run_id, of_round=number)
        return {AssignmentState(row["state"]): int(row["parts"]) for row in rows}

    def count_bytes_down(self, run_id: str, number: int, device_id: str, size: int) -> None:
        with self.transaction() as db:
            db.execute(sql_queries.COUNT_DOWN, sql_queries.part(run_id, number, device_id) | {"more": size})

    def count_bundle_bytes(self, device_id: str, size: int) -> None:
        with self.transaction() as db:
            total = devices.c.bytes_down + size
            db.execute(update(devices).where(devices.c.device_id == device_id).values(bytes_down=total))

    def receive(self, received: Assignment) -> None:
        with self.transaction() as db:
            self.receive_in(db, received)

    def receive_in(self, db: Connection, received: Assignment) -> None:
        """``receive`` as a part of a transaction."""
        mine = sql_queries.part(*received.key)
        # Writing first takes the lock, the row's or the whole database's, so that no other writer comes between check
        # and change.
        db.execute(sql_queries.HOLD_PART, mine)
        row = db.execute(sql_queries.UPDATE_OF_PART, mine).first()
        if row is None:
            raise NotSelected("This device has no part in the round: check in and do as told.")
        if db.execute(sql_queries.REVOKED, mine).first():
            raise Revoked("This device was revoked or has left: its update is not counted.")
        if row.state == AssignmentState.RECEIVED:
            if row.sha256 == received.sha256:
                return
            raise Conflict("Another update by this device is already counted: check in for the next round.")
        place = expect(db, received)
        changed = {"state", "sha256", "bytes_up", "failure", "head_norm", "saved_norm"} | {
            c.name for c in assignments.c if "local_" in c.name
        }
        values = {k: v for k, v in assignment_row(received).items() if k in changed} | {"sequence": place}
        db.execute(sql_queries.SET_PART, mine | values)

    def names_update(self, sha256: str, run_id: str = "", after: int = 0) -> bool:
        with self.transaction() as db:
            return self.names_update_in(db, sha256, run_id, after)

    def names_update_in(self, db: Connection, sha256: str, run_id: str, after: int) -> bool:
        """``names_update`` as a part of a transaction."""
        left_out = (assignments.c.run_id == run_id) & (func.coalesce(counted_in, after + 1) <= after)
        named = select(assignments.c.round).where(assignments.c.sha256 == sha256, ~left_out)
        return db.execute(named).first() is not None

    def join(self, part: Assignment) -> Assignment | None:
        with self.transaction() as db:
            mine = sql_queries.part(*part.key)
            if db.execute(sql_queries.HELD_ROUND, mine).scalar_one() != RoundState.COLLECTING:
                return None
            if db.execute(sql_queries.REVOKED, mine).first():
                return None
            db.execute(self.insert_into(assignments).values(assignment_row(part)).on_conflict_do_nothing())
            return assignment_from(dict(db.execute(sql_queries.ASSIGNMENT, mine).mappings().one()))

    def expect(self, part: Assignment) -> None:
        with self.transaction() as db:
            expect(db, part)

    def counted(self, run_id: str, number: int) -> list[Assignment]:
        mine = (assignments.c.run_id == run_id) & (assignments.c.state == AssignmentState.RECEIVED)
        query = select(assignments).where(mine, counts_in(number))
        return [
            assignment_from(row) for row in self.all(query.order_by(assignments.c.sequence, assignments.c.device_id))
        ]

    def buffered(self, run_id: str) -> int:
        with self.transaction() as db:
            return buffered(db, run_id)

    def close_buffer(self, run_id: str, number: int, size: int) -> None:
        with self.transaction() as db:
            _move(db, run_id, number, RoundState.COLLECTING, state=RoundState.AGGREGATING)
            fill(db, run_id, number, size)

    def fail(self, run_id: str, number: int, device_id: str, failure: str) -> None:
        part = _is_part(run_id, number, device_id)
        with self.transaction() as db:
            db.execute(
                update(assignments)
                .where(part, assignments.c.state == AssignmentState.ASSIGNED)
                .values(state=AssignmentState.FAILED, failure=failure)
            )
            db.execute(update(devices).where(devices.c.device_id == device_id).values(failure=failure))

    def close_round(self, run_id: str, number: int) -> None:
        with self.transaction() as db:
            _move(db, run_id, number, RoundState.COLLECTING, state=RoundState.AGGREGATING)

    def abandon(self, run_id: str, number: int, now: float) -> None:
        with self.transaction() as db:
            _move(db, run_id, number, RoundState.COLLECTING, state=RoundState.ABANDONED, closed_at=now)

    def publish(
        self,
        run_id: str,
        number: int,
        adapter: str,
        evaluation: Evaluation | None,
        now: float,
        optimizer_memory: str | None = None,
    ) -> None:
        values = {"state": RoundState.PUBLISHED, "adapter": adapter, "closed_at": now, **evaluation_row(evaluation)}
        values["optimizer_memory"] = optimizer_memory
        with self.transaction() as db:
            # The run first, as whoever stops it does, so that neither waits for the other.
            db.execute(update(runs).where(runs.c.run_id == run_id).values(adapter=adapter))
            _move(db, run_id, number, RoundState.AGGREGATING, **values)

    def set_release(self, release: Release) -> Release | None:
        row = {**asdict(release.archive), "signature": release.signature}
        mine = releases.c.machine == release.archive.machine
        with self.transaction() as db:
            self.alone(db, "releases")
            before = db.execute(select(releases).where(mine)).mappings().first()
            new = self.insert_into(releases).values(row)
            db.execute(new.on_conflict_do_update(index_elements=[releases.c.machine], set_=row))
            return None if before is None else release_from(dict(before))

    def releases(self) -> list[Release]:
        return [release_from(row) for row in self.all(select(releases).order_by(releases.c.machine))]

    def withdraw_release(self, machine: str) -> Release:
        with self.transaction() as db:
            gone = delete(releases).where(releases.c.machine == machine).returning(*releases.c)
            row = db.execute(gone).mappings().first()
            if row is None:
                raise NotFound(f"No release is offered to {machine!r}: see ravan-server releases.")
            return release_from(dict(row))


def _move(db: Connection, run_id: str, number: int, expected: RoundState, **values: Any) -> None:
    """Changes a round that is in the expected state.

    Raises:
        WrongState: it is in another.
    """
    changed = db.execute(update(rounds).where(is_round(run_id, number), rounds.c.state == expected).values(**values))
    if changed.rowcount != 1:
        raise WrongState(f"Round {number} is not {expected}: look at ravan-server status.")


def _is_part(run_id: str, number: int, device_id: str) -> Any:
    c = assignments.c
    return (c.run_id == run_id) & (c.round == number) & (c.device_id == device_id)
