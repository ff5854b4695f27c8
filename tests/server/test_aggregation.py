"""How updates become an adapter on a real server: the bound at the door, the rules, and optimizers that remember."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from protos.ravan.v1 import control_pb2 as control
from ravan.bundle import Bundle
from ravan.errors import SettingsError
from ravan.update import Update, decode, encode
from server.records import RoundState
from server.settings import RunOptions
from server.tables import run_table
from tests.server.hosting import DEVICES, Host, hosting, refusal

A, B, C, D = DEVICES[:4]


def test_an_update_beyond_the_absolute_norm_is_refused_and_the_round_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(clients_per_round=1, rounds=1, max_norm=10, max_saved_norm=100)
            binding = (await host.tasks([A]))[A].binding
            code, status, sentence = await refusal(host.upload(A, binding, moved(host, 1, 1000)))
            assert (code, status) == ("norm-too-large", "INVALID_ARGUMENT")
            assert "at most 10 is taken" in sentence
            saved_alone = moved(host, 1, 1)
            saved_alone.saved[:] *= 10
            sentence = (await refusal(host.upload(A, binding, saved_alone)))[2]
            assert "the modules trained whole" in sentence
            assert "at most 100 is taken" in sentence
            assert host.coordinator._storage.updates.names() == []
            assert (await host.control.ListRuns(control.ListRunsRequest())).runs[0].rounds[0].received == 0
            await host.upload(A, binding, moved(host, 1, 1))
            await host.settle()
            assert (await host.coordinator.find_run("")).state == "finished"

    asyncio.run(scene())


def test_a_round_takes_no_norm_far_beyond_the_last_rounds_median(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(clients_per_round=3, rounds=2, max_norm_ratio=4)
            tasks = await host.tasks([A, B, C])
            for device, factor in ((A, 1.0), (B, 1.0), (C, 500.0)):  # nothing to compare with yet
                await host.upload(device, tasks[device].binding, moved(host, 1, factor))
            again = await host.tasks([A, B, C])
            first, second = (await status(host)).rounds
            assert not first.HasField("head_bound")
            part = host.coordinator._storage.state.assignments(again[A].binding.run_id, 1)[0]
            assert (part.head_norm, part.saved_norm) == (second.head_bound / 4, second.saved_bound / 4)
            for device, factor, code in ((A, 5.0, "norm-too-large"), (B, -5.0, "norm-too-large"), (C, 3.0, "")):
                upload = host.upload(device, again[device].binding, moved(host, 1, factor))
                if code:
                    assert (await refusal(upload))[0] == code
                else:
                    await upload

    asyncio.run(scene())


def test_one_head_far_away_is_refused_though_the_whole_is_near(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(clients_per_round=1, rounds=2, max_norm_ratio=3)
            await host.upload(A, (await host.tasks([A]))[A].binding, moved(host, 1, 1))
            binding = (await host.tasks([A]))[A].binding
            sly, heads = moved(host, 1, 0), moved(host, 1, 1).heads.size
            sly.sH[0] += moved(host, 1, 1).sH[0] * np.sqrt(heads).astype(np.float32) * 2
            assert (await refusal(host.upload(A, binding, sly)))[0] == "norm-too-large"

    asyncio.run(scene())


@pytest.mark.parametrize("aggregation", ["median", "trimmed-mean", "clipped-mean", "multi-krum"])
def test_a_robust_run_keeps_a_hostile_device_at_bay(bundle: Bundle, tmp_path: Path, aggregation: str) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            devices = DEVICES[: 7 if aggregation == "multi-krum" else 3]
            count = len(devices)
            await host.begin(clients_per_round=count, min_updates=count, rounds=1, aggregation=aggregation)
            tasks = await host.tasks(devices)
            for seed, device in enumerate(devices):
                far = 1e6 if device == A else 1.0
                await host.upload(device, tasks[device].binding, moved(host, seed, far))
            await host.settle()
            run = await host.coordinator.find_run("")
            spec = bundle.manifest.adapter
            result = decode(spec, host.coordinator._storage.adapters.get(run.adapter))
            assert 0 < np.abs(result.sH).max() < 6  # H starts at 0, and the honest changes are standard normal

    asyncio.run(scene())


@pytest.mark.parametrize("optimizer", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_a_server_killed_around_publishing_goes_on_to_the_same_bits(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Killed between aggregating and publishing, just after publishing, and not at all."""

    async def one_round(host: Host, number: int) -> None:
        tasks = await host.tasks([A, B, C])
        for seed, device in enumerate(tasks):
            await host.upload(device, tasks[device].binding, moved(host, 10 * number + seed, 1))

    async def scene(state: Path, crash: str) -> list[str]:
        options = {"rounds": 3, "clients_per_round": 3, "min_updates": 3, "aggregation": "median"}
        async with hosting(state, bundle) as host:
            await host.begin(**options, server_optimizer=optimizer)
            await one_round(host, 1)
            await host.settle()
            await one_round(host, 2)
            if crash:
                with monkeypatch.context() as broken:
                    kill(host, broken, crash)
                    with pytest.raises(Killed):
                        await host.settle()
        async with hosting(state, bundle) as host:
            host.run = await host.coordinator.find_run("")
            await host.settle()
            await one_round(host, 3)
            await host.settle()
            storage, run = host.coordinator._storage, await host.coordinator.find_run("")
            rounds = storage.state.rounds(run.run_id)
            assert [r.state for r in rounds] == [RoundState.PUBLISHED] * 3
            assert len(storage.optimizer.names()) == (0 if optimizer == "fedavg" else 1)
            return [str(r.adapter) for r in rounds] + [str(r.optimizer_memory) for r in rounds]

    undisturbed = asyncio.run(scene(tmp_path / "undisturbed", ""))
    assert len(set(undisturbed[:3])) == 3
    for crash in ("before", "after"):
        assert asyncio.run(scene(tmp_path / crash, crash)) == undisturbed


class Killed(BaseException):
    """Ends a server where it stands."""


def kill(host: Host, patch: pytest.MonkeyPatch, when: str) -> None:
    """Lets the next publishing end in a kill, before or after its transaction."""
    state = host.coordinator._storage.state
    publish = state.publish

    def killed(*values: object) -> None:
        if when == "after":
            publish(*values)  # type: ignore[arg-type]
        raise Killed

    patch.setattr(state, "publish", killed)


def moved(host: Host, seed: int, factor: float) -> Update:
    """The run's adapter, moved by ``factor`` times a normal change of every head and saved tensor."""
    assert host.run is not None
    storage, spec = host.coordinator._storage, host.bundle.manifest.adapter
    base, change = decode(spec, storage.adapters.get(storage.state.run(host.run.run_id).adapter)), host.update(seed)
    scale = np.float32(factor)
    return Update(base.heads, base.sH + scale * change.sH, base.saved + scale * change.saved)


async def status(host: Host) -> control.Run:
    return (await host.control.ListRuns(control.ListRunsRequest())).runs[0]


def test_status_says_how_updates_become_an_adapter(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            options = {"aggregation": "trimmed-mean", "attackers": 0.3, "server_optimizer": "fedyogi", "max_norm": 2.5}
            await host.begin(clients_per_round=5, min_updates=5, **options)
            shown = await status(host)
            assert shown.aggregation.rule == control.AGGREGATION_RULE_TRIMMED_MEAN
            assert (shown.aggregation.learning_rate, shown.aggregation.tau) == (0.01, 1e-3)
            told = io.StringIO()
            Console(width=250, file=told).print(run_table(shown))
            assert (
                "trimmed-mean that bears 30% hostile updates, fedyogi with rate 0.01, norms up to 2.5 of a head and "
                "10 times the last rounds' median" in told.getvalue()
            )

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"aggregation": "mean", "attackers": 0.1}, "mean bears no hostile update"),
        ({"aggregation": "median"}, "median bears 20% hostile updates from 3 updates a round on, and this run takes 1"),
        (
            {"aggregation": "multi-krum", "attackers": 0.4, "clients_per_round": 20, "min_updates": 18},
            "multi-krum bears 40% hostile updates from 19 updates a round on, and this run takes 18",
        ),
        (
            {"aggregation": "median", "min_updates": 3, "weighting": "examples"},
            "--weighting examples trusts what devices report",
        ),
    ],
)
def test_settings_that_bear_less_than_they_claim_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        RunOptions.model_validate(options)


def test_the_bytes_of_a_round_do_not_depend_on_who_uploads_first(bundle: Bundle, tmp_path: Path) -> None:
    async def scene(folder: Path, order: list[str]) -> bytes:
        async with hosting(folder, bundle) as host:
            await host.begin(clients_per_round=3, min_updates=3, rounds=1, aggregation="clipped-mean")
            tasks = await host.tasks([A, B, C])
            for device in order:
                await host.upload(device, tasks[device].binding, moved(host, int(device, 16), 1))
            await host.settle()
            run = await host.coordinator.find_run("")
            spec = bundle.manifest.adapter
            return encode(spec, decode(spec, host.coordinator._storage.adapters.get(run.adapter)))

    assert asyncio.run(scene(tmp_path / "1", [A, B, C])) == asyncio.run(scene(tmp_path / "2", [C, A, B]))
