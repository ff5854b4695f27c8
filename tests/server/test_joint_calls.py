"""Calls that share a commit: none is answered before it, and none suffers from another."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from ravan.errors import EnvironmentProblem
from server import sql_database
from server.errors import NotSelected
from server.joint_calls import JointCalls
from server.records import Assignment, Device, LocalReport
from server.sql_state import DATABASE, SqlState, open_sqlite
from tests.contract.conftest import RUN

DEVICES = [Device(f"{number:032x}", f"device {number}", 1.0) for number in range(20)]


class Scene:
    """Joint calls on a real SQLite state, whose thread can be kept busy so that calls gather."""

    def __init__(self, state: SqlState, executor: ThreadPoolExecutor) -> None:
        self.state = state
        self.calls = JointCalls(state, executor)
        self.commits = 0
        event.listen(state._engine, "commit", self._count)

    def _count(self, _: Connection) -> None:
        self.commits += 1

    def durable(self) -> int:
        """How many devices another connection sees, and so would a restarted server."""
        return devices_in(Path(str(self.state._engine.url.database)))

    @asynccontextmanager
    async def gathering(self) -> AsyncIterator[None]:
        """The thread is busy in the block; calls made there are taken up together at its end."""
        busy, free = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold_up() -> None:
            loop.call_soon_threadsafe(busy.set)
            free.wait(30)

        held = asyncio.create_task(self.calls.make(hold_up))
        await busy.wait()
        try:
            yield
            await asyncio.sleep(0)  # for tasks that were created to make their calls
        finally:
            free.set()
            await held

    def seeing(self, device: Device) -> asyncio.Task[None]:
        """A call that writes."""
        return asyncio.create_task(self.calls.make(partial(self.state.see_device, device)))


def devices_in(database: Path) -> int:
    with closing(sqlite3.connect(database)) as other:
        return int(other.execute("SELECT count(*) FROM devices").fetchone()[0])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with closing(open_sqlite(tmp_path, patience=0.5)) as state, ThreadPoolExecutor(1) as executor:
        yield Scene(state, executor)


def test_calls_that_wait_together_share_a_commit(scene: Scene) -> None:
    async def play() -> None:
        async with scene.gathering():
            calls = [scene.seeing(device) for device in DEVICES]
        scene.commits = 0
        await asyncio.gather(*calls)
        assert scene.commits == 1
        assert scene.durable() == len(DEVICES)

    asyncio.run(play())


def test_nobody_has_an_answer_before_the_common_commit_is_on_disk(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_commit, go_on, commits = threading.Event(), threading.Event(), iter(range(100))

    def stop(point: str) -> None:
        if point == "before-commit" and next(commits) == 1:  # 0 is that of the call that keeps the thread busy
            at_commit.set()
            go_on.wait(30)

    async def play() -> None:
        monkeypatch.setattr(sql_database, "reached", stop)
        async with scene.gathering():
            calls = [scene.seeing(device) for device in DEVICES]
        assert await asyncio.to_thread(at_commit.wait, 30)
        await asyncio.sleep(0.1)
        assert not any(call.done() for call in calls)
        assert scene.durable() == 0
        go_on.set()
        await asyncio.gather(*calls)
        assert scene.durable() == len(DEVICES)

    asyncio.run(play())


def test_a_refused_call_changes_nothing_and_the_others_count(scene: Scene) -> None:
    def half_done() -> None:
        with scene.state.transaction():
            scene.state.see_device(DEVICES[0])
            scene.state.receive(Assignment("no-run", 1, "a" * 32).received("0" * 64, 1, LocalReport()))

    async def play() -> None:
        async with scene.gathering():
            before = scene.seeing(DEVICES[1])
            refused = asyncio.create_task(scene.calls.make(half_done))
            after = scene.seeing(DEVICES[2])
        await asyncio.gather(before, after)
        with pytest.raises(NotSelected):
            await refused
        assert {device.device_id for device in scene.state.devices()} == {d.device_id for d in DEVICES[1:3]}

    asyncio.run(play())


def test_a_defect_in_one_call_takes_no_other_down(scene: Scene) -> None:
    def defect() -> None:
        scene.state.see_device(DEVICES[0])
        raise ZeroDivisionError

    async def play() -> None:
        async with scene.gathering():
            before = scene.seeing(DEVICES[1])
            broken = asyncio.create_task(scene.calls.make(defect))
            after = scene.seeing(DEVICES[2])
        await asyncio.gather(before, after)
        with pytest.raises(ZeroDivisionError):
            await broken
        await scene.seeing(DEVICES[3])
        assert scene.durable() == 4  # each for itself, as without sharing: what the defect left committed stays

    asyncio.run(play())


def test_who_stopped_waiting_is_left_out(scene: Scene) -> None:
    async def play() -> None:
        async with scene.gathering():
            gone, stays = scene.seeing(DEVICES[0]), scene.seeing(DEVICES[1])
            await asyncio.sleep(0)
            gone.cancel()
        await stays
        assert [device.device_id for device in scene.state.devices()] == [DEVICES[1].device_id]

    asyncio.run(play())


def test_a_lock_of_another_program_that_stays_is_everybodys_error_and_none_is_answered(
    scene: Scene, tmp_path: Path
) -> None:
    async def play() -> None:
        async with scene.gathering():
            calls = [scene.seeing(device) for device in DEVICES[:3]]
        await asyncio.gather(*calls)
        with closing(sqlite3.connect(tmp_path / DATABASE)) as other:
            other.execute("BEGIN IMMEDIATE")
            calls = [scene.seeing(device) for device in DEVICES[3:5]]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, EnvironmentProblem), error
        await scene.seeing(DEVICES[5])
        assert scene.durable() == 4

    asyncio.run(play())


def test_a_lock_that_passes_is_waited_for_even_by_calls_that_read_first(scene: Scene, tmp_path: Path) -> None:
    """SQLite refuses at once a transaction that has read and would write while another program writes."""

    async def play() -> None:
        with closing(sqlite3.connect(tmp_path / DATABASE, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with scene.gathering():
                call = asyncio.create_task(scene.calls.make(partial(scene.state.create_run, RUN)))
            await asyncio.to_thread(time.sleep, 0.2)
            other.rollback()
            await call
        assert scene.state.active_run() == RUN

    asyncio.run(play())
