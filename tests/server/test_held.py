"""Check-ins that the server holds: who gets what as soon as it is there, and what becomes of those who go away."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc
from ravan.bundle import Bundle
from ravan.errors import EnvironmentProblem
from server import held
from server.records import RunState
from server.settings import Mode
from server.state import State
from tests.server.hosting import DEVICES, Host, hosting

A, B, C = DEVICES[:3]
SLOW = {"poll_min": 20.0, "poll_max": 30.0}
"""Whoever is not held comes back when the test is long over."""
SOON = 10.0
LONG = 30.0
Play = Callable[[Host], Awaitable[None]]


def played(bundle: Bundle, state: Path, play: Play, **options: object) -> None:
    """A scene against a fresh server that moves a run by itself."""

    async def scene() -> None:
        async with hosting(state, bundle) as host:
            await host.begin(**(SLOW | options))
            async with host.moving():
                await play(host)

    asyncio.run(asyncio.wait_for(scene(), 60))


def holding(host: Host, device: str, seconds: float = LONG) -> asyncio.Task[pb.CheckInResponse]:
    """A check-in that the server may hold."""
    return asyncio.create_task(host.check_in(device, hold=seconds))


async def soon(*answers: Awaitable[pb.CheckInResponse]) -> list[pb.CheckInResponse]:
    """Answers that must come long before the server ends their hold."""
    return list(await asyncio.wait_for(asyncio.gather(*answers), SOON))


async def is_held(answer: asyncio.Task[pb.CheckInResponse]) -> None:
    """Waits until the server must have it, and sees that it does not answer."""
    done, _ = await asyncio.wait({answer}, timeout=0.3)
    assert not done, answer.result()


def test_held_devices_have_their_tasks_as_soon_as_they_are_chosen(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        first = holding(host, A)
        await is_held(first)
        answers = await soon(first, holding(host, B))
        assert [answer.task.binding.round for answer in answers] == [1, 1]
        for number, answer in enumerate(answers):
            await host.upload(DEVICES[number], answer.task.binding, host.update(number))
        again = await soon(holding(host, A), holding(host, B))
        assert [answer.task.binding.round for answer in again] == [2, 2]

    played(bundle, tmp_path, play)


def test_a_device_of_an_older_version_is_answered_at_once(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        [answer] = await soon(host.check_in(A))
        assert answer.wait.reason == pb.WAIT_REASON_NOT_SELECTED
        assert (answer.wait.min_seconds, answer.wait.max_seconds) == (20.0, 30.0)

    played(bundle, tmp_path, play)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("-inf")])
def test_a_hold_that_makes_no_sense_is_none(bundle: Bundle, tmp_path: Path, seconds: float) -> None:
    async def play(host: Host) -> None:
        [answer] = await soon(holding(host, A, seconds))
        assert answer.wait.min_seconds == 20.0

    played(bundle, tmp_path, play)


@pytest.mark.parametrize("seconds", [LONG, float("inf")])
def test_a_device_is_held_for_as_long_as_it_counts_as_present(bundle: Bundle, tmp_path: Path, seconds: float) -> None:
    async def play(host: Host) -> None:
        [answer] = await soon(holding(host, A, seconds))
        assert answer.wait.reason == pb.WAIT_REASON_NOT_SELECTED
        assert answer.wait.min_seconds == 0  # it has waited here
        assert 0 < answer.wait.max_seconds <= 0.5

    played(bundle, tmp_path, play, poll_min=0.1, poll_max=0.5)


def test_what_a_device_waited_at_the_server_it_need_not_wait_again(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        [answer] = await soon(holding(host, A, 0.5))
        assert 19.5 <= answer.wait.min_seconds <= 19.75
        assert answer.wait.max_seconds == answer.wait.min_seconds + 10

    played(bundle, tmp_path, play)


def test_devices_that_come_together_are_not_sent_back_together(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        answers = await soon(*(holding(host, f"{number:032x}", 1.0) for number in range(30)))
        held = [20 - answer.wait.min_seconds for answer in answers]
        assert 0.5 <= min(held) < 0.65
        assert 0.85 < max(held) <= 1

    played(bundle, tmp_path, play, clients_per_round=50)


def test_a_device_that_checks_in_again_leaves_its_former_place(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        former = holding(host, A)
        await is_held(former)
        newer = holding(host, A)
        [answer] = await soon(former)
        assert answer.wait.reason == pb.WAIT_REASON_NOT_SELECTED
        await is_held(newer)
        assert all(answer.HasField("task") for answer in await soon(newer, holding(host, B)))

    played(bundle, tmp_path, play)


def test_a_device_that_goes_away_while_it_is_held_finds_its_task_when_it_comes_back(
    bundle: Bundle, tmp_path: Path
) -> None:
    async def play(host: Host) -> None:
        gone = holding(host, A)
        await is_held(gone)
        gone.cancel()
        [other] = await soon(holding(host, B))
        [back] = await soon(host.check_in(A))
        assert back.task.binding == other.task.binding
        await host.upload(A, back.task.binding, host.update(0))

    played(bundle, tmp_path, play)


def test_a_place_is_free_again_when_its_device_goes_away(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MOST_HELD", 1)

    async def play(host: Host) -> None:
        first = holding(host, A)
        await is_held(first)
        [beyond] = await soon(holding(host, B))
        assert beyond.wait.reason == pb.WAIT_REASON_NOT_SELECTED
        first.cancel()
        await asyncio.sleep(0.3)
        await is_held(holding(host, C))

    played(bundle, tmp_path, play, clients_per_round=4)


def test_those_held_hear_at_once_that_the_run_is_paused_or_over(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        assert host.run
        for state, reason in (
            (RunState.PAUSED, pb.WAIT_REASON_RUN_PAUSED),
            (RunState.STOPPED, pb.WAIT_REASON_RUN_FINISHED),
        ):
            waiting = holding(host, A)
            await is_held(waiting)
            await host.coordinator.set_state(host.run.run_id, state)
            [answer] = await soon(waiting)
            assert answer.wait.reason == reason
            if state is RunState.PAUSED:
                [at_once] = await soon(holding(host, B))
                assert at_once.wait.reason == reason
                await host.coordinator.set_state(host.run.run_id, RunState.ACTIVE)

    played(bundle, tmp_path, play, clients_per_round=4)


def test_in_an_asynchronous_run_the_next_adapter_ends_the_wait(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        tasks = [answer.task for answer in await soon(holding(host, A), holding(host, B))]
        await host.upload(A, tasks[0].binding, host.update(0))
        waiting = holding(host, A)  # it has given what the first round can have of it
        await is_held(waiting)
        await host.upload(B, tasks[1].binding, host.update(1))
        [answer] = await soon(waiting)
        assert answer.task.binding.round == 2

    played(bundle, tmp_path, play, mode=Mode.ASYNC, clients_per_round=3, buffer=2)


def test_a_server_that_ends_lets_everybody_go_first(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(**SLOW)
            channel = grpc.aio.insecure_channel(host.address)  # that outlives the server
            waiting = holding(replace(host, fleet=fleet_pb2_grpc.FleetStub(channel)), A)
            await is_held(waiting)
        [answer] = await soon(waiting)
        assert answer.wait.reason == pb.WAIT_REASON_NOT_SELECTED
        await channel.close()

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_those_held_are_told_once_a_database_that_was_away_is_back(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, failures = held._chosen, iter([EnvironmentProblem("The database refuses.")])

    def away_at_first(state: State, told: tuple[str, int] | None) -> object:
        for failure in failures:
            raise failure
        return chosen(state, told)

    monkeypatch.setattr(held, "_chosen", away_at_first)

    async def play(host: Host) -> None:
        waiting = holding(host, A)
        await is_held(waiting)
        assert all(answer.HasField("task") for answer in await soon(waiting, holding(host, B)))

    played(bundle, tmp_path, play)


def test_the_task_of_one_held_at_another_server_reaches_it(bundle: Bundle, tmp_path: Path, database: str) -> None:
    async def scene() -> None:
        async with AsyncExitStack() as stack:
            hosts = [
                await stack.enter_async_context(hosting(tmp_path / name, bundle, database)) for name in ("one", "two")
            ]
            await hosts[0].begin(**SLOW)
            for host in hosts:
                await stack.enter_async_context(host.moving())
            first = holding(hosts[1], A)
            await is_held(first)
            answers = await soon(first, holding(hosts[0], B))
            assert answers[0].task.binding == answers[1].task.binding
            for number, (host, answer) in enumerate(zip((hosts[0], hosts[1]), answers, strict=True)):
                await host.upload(DEVICES[number], answer.task.binding, host.update(number))  # each at the other one
            again = await soon(holding(hosts[1], A), holding(hosts[0], B))
            assert [answer.task.binding.round for answer in again] == [2, 2]

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_call_that_its_device_ends_in_time_is_no_task_lost(bundle: Bundle, tmp_path: Path) -> None:
    """The device's own patience may be shorter than the hold that it asked for."""

    async def play(host: Host) -> None:
        request = pb.CheckInRequest(device_id=A, name="test", hold_seconds=LONG)
        request.capabilities.head_budget = 1
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await host.fleet.CheckIn(request, timeout=0.5)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await soon(holding(host, B))
        [back] = await soon(host.check_in(A))
        assert back.HasField("task")

    played(bundle, tmp_path, play)
