"""What the operator relies on: runs survive crashes between any two writes, and say what they wait for."""

import asyncio
import hashlib
import io
import shutil
import time
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from protos.ravan.v1 import control_pb2 as pb
from ravan.bundle import Bundle
from ravan.errors import SettingsError
from ravan.inputs import Metric
from ravan.runtime.adapter import read_adapter
from ravan.update import encode
from server import client
from server.control_address import control_address
from server.errors import WrongState
from server.exports import Exports
from server.place import Place
from server.records import RoundState, RunState
from server.settings import RunOptions
from server.tables import run_table
from tests.conftest import sentences, write_rows
from tests.server.hosting import DEVICES, hosting

A, B = DEVICES[:2]


def test_the_adapter_files_are_never_behind_the_state(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that dies after publishing has written both files; one that dies before writes them again."""

    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(rounds=1, clients_per_round=1)
            task = (await host.tasks([A]))[A]
            update = host.update(3)
            await host.upload(A, task.binding, update)
            with monkeypatch.context() as broken:

                def full(*_: object, **__: object) -> None:
                    raise OSError(28, "No space left on device")

                broken.setattr(Exports, "write", full)
                with pytest.raises(OSError, match="No space"):
                    await host.settle()
            run = await host.coordinator.find_run("")
            assert host.coordinator._storage.state.rounds(run.run_id)[0].state is RoundState.AGGREGATING
            await host.settle()
            for best in (False, True):
                path = host.coordinator._storage.adapter_path(run.run_id, best=best)
                written = read_adapter(path or Path(), bundle.manifest.adapter)
                assert encode(bundle.manifest.adapter, written) == encode(bundle.manifest.adapter, update)

    asyncio.run(scene())


def test_a_full_disk_is_logged_and_the_step_tried_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(rounds=1, clients_per_round=1)
            task = (await host.tasks([A]))[A]
            await host.upload(A, task.binding, host.update(3))
            monkeypatch.setattr("server.coordinator.RETRY_SECONDS", 0.05)
            with monkeypatch.context() as broken:
                broken.setattr(Exports, "write", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
                serving = asyncio.create_task(host.coordinator.serve(until_finished=True))
                await asyncio.sleep(0.3)
                assert not serving.done()
            await asyncio.wait_for(serving, 20)
            assert (await host.coordinator.find_run("")).state is RunState.FINISHED

    asyncio.run(scene())


def test_a_run_is_compared_by_a_figure_that_its_loss_has(value_bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, value_bundle) as host:
            with pytest.raises(SettingsError, match="--metric accuracy means nothing for a mean-squared-error: use lo"):
                await host.begin(metric=Metric.ACCURACY)
            assert (await host.begin()).options.metric is Metric.LOSS

    asyncio.run(scene())


def test_a_run_by_its_loss_is_shown_by_its_loss() -> None:
    rounds = [pb.Round(number=1, state=pb.ROUND_STATE_PUBLISHED, evaluation=pb.Evaluation(loss=0.25, examples=9))]
    run = pb.Run(run_id="a", state=pb.RUN_STATE_ACTIVE, metric=pb.METRIC_LOSS, rounds=rounds, best_round=1)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_table(run))
    shown = console.export_text()
    assert shown.count(" loss ") == 2  # of the held-out examples, and the local one
    assert "0.250" in shown
    assert "accuracy" not in shown


def test_old_updates_are_dropped_and_unreceipted_ones_swept(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(rounds=4, clients_per_round=1, keep_updates=2)
            updates = host.coordinator._storage.updates
            for number in range(4):
                task = (await host.tasks([A]))[A]
                await host.upload(A, task.binding, host.update(number))
                await host.settle()
            kept = {hashlib.sha256(encode(bundle.manifest.adapter, host.update(n))).hexdigest() for n in (2, 3)}
            assert set(updates.names()) == kept
            updates.put(b"an update whose receipt was never given")
        async with hosting(tmp_path, bundle) as host:
            assert set(host.coordinator._storage.updates.names()) == kept

    asyncio.run(scene())


def test_a_run_is_paused_resumed_with_its_time_and_stopped(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            run = await host.begin(deadline=0.2)
            tasks = await host.tasks([A, B])
            await host.control.SetRunState(pb.SetRunStateRequest(state=pb.RUN_STATE_PAUSED))
            await asyncio.sleep(0.3)
            await host.control.SetRunState(pb.SetRunStateRequest(state=pb.RUN_STATE_ACTIVE))
            assert await host.upload(A, tasks[A].binding, host.update(0))
            await host.control.SetRunState(pb.SetRunStateRequest(state=pb.RUN_STATE_STOPPED))
            assert host.coordinator._storage.state.rounds(run.run_id)[0].state is RoundState.ABANDONED
            with pytest.raises(WrongState):
                await host.coordinator.set_state("", RunState.ACTIVE)
            assert (await host.coordinator.find_run("")).state is RunState.STOPPED

    asyncio.run(scene())


def test_a_run_that_only_abandons_is_paused_for_the_operator(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(clients_per_round=1, deadline=0.01)
            for _ in range(5):
                await host.tasks([A])
                await asyncio.sleep(0.02)
                await host.settle()
            assert (await host.coordinator.find_run("")).state is RunState.PAUSED

    asyncio.run(scene())


def test_the_last_word_of_a_watched_run_is_its_end(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(rounds=1, clients_per_round=1)
            serving = asyncio.create_task(host.coordinator.serve(until_finished=True))
            seen: list[pb.Run] = []

            async def watching() -> None:
                seen.extend([message.run async for message in host.control.WatchRun(pb.WatchRunRequest())])

            watched = asyncio.create_task(watching())
            await asyncio.sleep(0.1)
            answer = await host.check_in(A)
            while not answer.HasField("task"):
                await asyncio.sleep(0.02)
                answer = await host.check_in(A)
            await host.upload(A, answer.task.binding, host.update(0))
            await asyncio.wait_for(watched, 20)
            await serving
            assert seen[-1].state == pb.RUN_STATE_FINISHED
            assert seen[-1].rounds_published == 1
            assert len({message.SerializeToString() for message in seen}) == len(seen)

    asyncio.run(scene())


def test_status_needs_neither_a_server_nor_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    moved = shutil.copytree(bundle.folder, tmp_path / "bundle")
    state = tmp_path / "state"

    async def scene() -> None:
        async with hosting(state, bundle) as host:
            host.bundle = Bundle(moved, bundle.manifest)
            await host.begin(evaluation=write_rows(tmp_path / "held-out.jsonl", sentences(9, 0)))
            await host.settle()
            assert (await host.check_in(A)).HasField("wait")

    asyncio.run(scene())
    shutil.rmtree(moved)
    runs, devices, refused = client.overview(control_address(state, ""), Place(state))
    assert refused is None
    assert (runs[0].model, runs[0].initial.examples) == (bundle.manifest.model, 9)
    assert [device.device_id for device in devices] == [A]


@pytest.mark.parametrize("field", ["deadline", "poll_max", "learning_rate", "clip_norm", "weight_decay"])
def test_options_that_json_cannot_keep_are_refused(field: str) -> None:
    for value in (float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            RunOptions.model_validate({field: value})


@pytest.mark.parametrize("field", ["rounds", "clients_per_round", "local_steps", "batch_size", "min_devices"])
def test_counts_fit_the_wire(field: str) -> None:
    with pytest.raises(ValidationError):
        RunOptions.model_validate({field: 2**31})


def test_a_clock_that_jumps_back_hides_no_run(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(rounds=1)
            await host.coordinator.set_state("", RunState.STOPPED)
            host.coordinator._clock = lambda: time.time() - 86_400
            second = await host.begin(rounds=1)
            assert (await host.coordinator.find_run("")).run_id == second.run_id
            answer = await host.check_in(A)
            assert answer.wait.min_seconds == pytest.approx(second.options.poll_min)

    asyncio.run(scene())


def test_a_clock_that_is_set_back_does_not_hold_a_round(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            run = await host.begin(rounds=1, deadline=100)
            await host.tasks([A, B])
            host.coordinator._clock = lambda: time.time() - 86_400
            await host.settle()
            current = host.coordinator._storage.state.current_round(run.run_id)
            assert current is not None
            assert current.deadline == pytest.approx(time.time() - 86_400 + 100, abs=30)

    asyncio.run(scene())


def test_the_learning_rates_decay_from_round_to_round() -> None:
    options = RunOptions(learning_rate=0.4, saved_learning_rate=0.8, learning_rate_decay=0.5)
    assert (options.plan(1).learning_rate, options.plan(1).saved_learning_rate) == (0.4, 0.8)
    assert (options.plan(3).learning_rate, options.plan(3).saved_learning_rate) == (0.1, 0.2)
