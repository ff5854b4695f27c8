"""An asynchronous run on a real server: devices at their own pace, nothing lost, nothing counted twice."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle
from ravan.errors import SettingsError
from ravan.rules import RuleName
from ravan.update import Update, decode, encode
from server.settings import Mode, RunOptions
from tests.server.hosting import DEVICES, Host, hosting, refusal

A, B, C, D = DEVICES[:4]
Call = Callable[[Host], Awaitable[object]]
ASYNC = {"mode": Mode.ASYNC, "clients_per_round": 3, "buffer": 2, "rounds": 4}


def played(bundle: Bundle, state: Path, play: Callable[[Host], Awaitable[None]]) -> None:
    async def scene() -> None:
        async with hosting(state, bundle) as host:
            await play(host)

    asyncio.run(asyncio.wait_for(scene(), 60))


async def task(host: Host, device: str) -> pb.Task:
    await host.settle()
    answer = await host.check_in(device)
    assert answer.HasField("task"), answer
    return answer.task


async def adapter(host: Host) -> Update:
    run = await host.coordinator.find_run("")
    return decode(host.bundle.manifest.adapter, host.coordinator._storage.adapters.get(run.adapter))


def test_a_late_update_moves_the_adapter_by_its_scaled_change(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(**ASYNC)
        tasks = {device: await task(host, device) for device in (A, B, C)}
        first = await adapter(host)
        for seed, device in enumerate((A, B)):
            await host.upload(device, tasks[device].binding, host.update(seed))
        second_task = await task(host, A)
        second = await adapter(host)
        np.testing.assert_allclose(second.sH, (host.update(0).sH + host.update(1).sH) / 2, atol=1e-6)
        await host.upload(C, tasks[C].binding, host.update(2))  # began from the first
        await host.upload(A, second_task.binding, host.update(3))
        await host.settle()
        change = (host.update(2).sH - first.sH) / math.sqrt(2) + (host.update(3).sH - second.sH)
        np.testing.assert_allclose((await adapter(host)).sH, second.sH + change / 2, atol=1e-5)

    played(bundle, tmp_path, play)


def test_a_device_takes_part_again_after_each_publication_and_not_before(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(**ASYNC)
        mine, other = await task(host, A), await task(host, B)
        receipt = await host.upload(A, mine.binding, host.update(0))
        assert (await host.check_in(A)).wait.reason == pb.WAIT_REASON_NOT_SELECTED
        assert (await refusal(host.upload(A, mine.binding, host.update(1))))[0] == "conflict"
        await host.upload(B, other.binding, host.update(1))
        again = await task(host, A)
        assert again.binding.round == 2
        assert again.binding.base_adapter != mine.binding.base_adapter
        assert await host.upload(A, mine.binding, host.update(0)) == receipt
        assert await host.upload(A, again.binding, host.update(0)) != receipt  # other base, other part

    played(bundle, tmp_path, play)


def test_an_update_that_is_too_stale_has_a_code_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(**ASYNC, max_staleness=1)
        late = await task(host, C)
        for number in range(2):
            for device in (A, B):
                await host.upload(device, (await task(host, device)).binding, host.update(number))
        await host.settle()
        code, status, sentence = await refusal(host.upload(C, late.binding, host.update(9)))
        assert (code, status) == ("too-stale", "FAILED_PRECONDITION")
        assert "2 adapters" in sentence
        assert (await task(host, C)).binding.round == 3

    played(bundle, tmp_path, play)


def test_an_update_for_another_base_than_it_names_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(**ASYNC)
        bound = (await task(host, A)).binding
        for field, value, code in (("base_adapter", "0" * 64, "wrong-base"), ("round", 2, "future-round")):
            other = pb.Binding()
            other.CopyFrom(bound)
            setattr(other, field, value)
            assert (await refusal(host.upload(A, other, host.update(0))))[0] == code
        assert (await refusal(host.upload(D, bound, host.update(0))))[0] == "not-selected"

    played(bundle, tmp_path, play)


@pytest.mark.parametrize("options", [{}, {"server_optimizer": "fedadam"}, {"weighting": "examples"}])
def test_a_server_started_anew_between_any_two_calls_comes_to_the_same_bits(
    bundle: Bundle, tmp_path: Path, options: dict[str, object]
) -> None:
    async def scene(folder: Path, *, disturbed: bool) -> bytes:
        tasks: dict[str, pb.Task] = {}

        def joins(device: str) -> Call:
            return lambda host: keep(host, tasks, device)

        def uploads(device: str, seed: int) -> Call:
            return lambda host: host.upload(device, tasks[device].binding, host.update(seed))

        calls = [*map(joins, (A, B, C)), *map(uploads, (C, A, B), range(3)), joins(C), uploads(C, 7)]
        groups = [[call] for call in calls] if disturbed else [calls]
        for number, group in enumerate(groups):
            async with hosting(folder, bundle) as host:
                if number == 0:
                    await host.begin(**ASYNC, **options)
                host.run = await host.coordinator.find_run("")
                for call in group:
                    await call(host)
                if number == len(groups) - 1:
                    await host.settle()
                    return encode(bundle.manifest.adapter, await adapter(host))
        raise AssertionError

    undisturbed = asyncio.run(scene(tmp_path / "one", disturbed=False))
    assert asyncio.run(scene(tmp_path / "other", disturbed=True)) == undisturbed


async def keep(host: Host, tasks: dict[str, pb.Task], device: str) -> None:
    tasks[device] = await task(host, device)


def test_rules_go_through_a_buffer_as_through_a_round(bundle: Bundle, tmp_path: Path) -> None:
    """One hostile update of five is outvoted."""

    async def play(host: Host) -> None:
        options = {"aggregation": RuleName.MEDIAN, "attackers": 0.3, "max_norm_ratio": 0.0}
        await host.begin(**ASYNC | {"buffer": 5}, **options)
        tasks = {device: await task(host, device) for device in DEVICES[:5]}
        honest = host.update(0)
        hostile = Update(honest.heads, honest.sH + 1e6, honest.saved)
        for device, given in tasks.items():
            await host.upload(device, given.binding, hostile if device == B else honest)
        await host.settle()
        np.testing.assert_allclose((await adapter(host)).sH, honest.sH, atol=1e-6)

    played(bundle, tmp_path, play)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "async", "clients_per_round": 4}, "--clients-per-round means nothing in --mode async"),
        ({"mode": "async", "over_select": 1}, "--over-select means nothing in --mode async"),
        ({"buffer": 5}, "--buffer means nothing in --mode sync"),
        ({"mode": "async", "buffer": 2, "aggregation": "median", "attackers": 0.4}, "raise --buffer"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        RunOptions.model_validate(options)
