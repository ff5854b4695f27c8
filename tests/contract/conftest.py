"""Every implementation of the server's state, and what tests of it begin with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.postgres import open_engine
from server.records import Device, Round, RoundState, Run, RunState
from server.settings import RunOptions
from server.sql_state import SqlState, open_sqlite
from server.state import State

STATES = ("sqlite", "postgresql")
RUN = Run(
    "run-1", RunState.ACTIVE, "b" * 64, "/bundle", "tiny", 42, "/held-out.jsonl", RunOptions(rounds=3), "a" * 64, 100.0
)
A, B, C = ("a" * 32, "b" * 32, "c" * 32)


@pytest.fixture(params=STATES)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], State]]:
    """Opens the same state again, as after a restart."""
    opened: list[State] = []
    url = request.getfixturevalue("database") if request.param == "postgresql" else None

    def open_state() -> State:
        while opened:
            opened.pop().close()
        opened.append(SqlState(open_engine(url)) if url else open_sqlite(tmp_path))
        return opened[-1]

    yield open_state
    while opened:
        opened.pop().close()


@pytest.fixture
def state(reopen: Callable[[], State]) -> State:
    return reopen()


@pytest.fixture
def collecting(state: State) -> State:
    """A run whose first round collects from A and B; C was not selected."""
    state.create_run(RUN)
    for device_id in (A, B, C):
        state.see_device(Device(device_id, f"name-{device_id[0]}", 200.0, 2, 2**33, "aarch64", "ravan-fl", 0.5))
    state.open_round(Round("run-1", 1, RoundState.SELECTING, RUN.adapter, 110.0))
    state.select("run-1", 1, [A, B], 700.0)
    return state
