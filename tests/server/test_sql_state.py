"""What only the SQLite state does."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ravan.errors import EnvironmentProblem
from server.records import Device
from server.sql_state import DATABASE, open_sqlite


def test_a_locked_database_is_explained_and_used_again_once_it_is_free(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path, patience=0.1)) as state:
        with closing(sqlite3.connect(tmp_path / DATABASE)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(EnvironmentProblem, match="database is locked"):
                state.see_device(Device("a" * 32, "one", 1.0))
        state.see_device(Device("a" * 32, "one", 1.0))
        assert len(state.devices()) == 1


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(EnvironmentProblem, match="choose another state folder"):
        open_sqlite(tmp_path)


def test_any_folder_name_is_taken_as_it_is(tmp_path: Path) -> None:
    odd = tmp_path / "a?b#c%20"
    odd.mkdir()
    open_sqlite(odd).close()
    assert (odd / DATABASE).is_file()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path)) as state, state._engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_database_of_an_older_version_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path)) as state:
        state.see_device(Device("a" * 32, "one", 1.0))
    lacking = {"rounds": ("head_bound", "optimizer_memory"), "assignments": ("head_norm",)}
    with closing(sqlite3.connect(tmp_path / DATABASE)) as older:
        for table, columns in lacking.items():
            for column in columns:
                older.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    with closing(open_sqlite(tmp_path)) as state, state._engine.connect() as db:
        assert [device.name for device in state.devices()] == ["one"]
        for table, columns in lacking.items():
            present = {row[1] for row in db.exec_driver_sql(f"PRAGMA table_info({table})")}
            assert set(columns) <= present
