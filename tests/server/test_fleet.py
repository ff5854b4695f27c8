"""The Fleet service against real calls on loopback: what it promises, and what it refuses."""

import asyncio
import hashlib
import io
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from protos.ravan.v1 import control_pb2 as control
from protos.ravan.v1 import fleet_pb2 as pb
from ravan import errors
from ravan.bundle import Bundle, Manifest
from ravan.rpc.plan import plan_from_proto
from ravan.update import Update, decode, encode
from server import errors as server_errors
from server.errors import STATUS
from server.records import RoundState
from server.settings import RunOptions
from server.tables import device_table
from tests.server.hosting import DEVICES, Change, Host, hosting, refusal

A, B, C = DEVICES[:3]


def played(bundle: Bundle, state: Path, play: Callable[[Host], Awaitable[None]]) -> None:
    """Runs a scene against a fresh server."""

    async def scene() -> None:
        async with hosting(state, bundle) as host:
            await play(host)

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_round_from_check_in_to_the_published_mean(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        tasks = await host.tasks([A, B])
        assert sorted(tasks) == [A, B]
        assert plan_from_proto(tasks[A].plan) == RunOptions().plan()
        adapter = b"".join([m.data async for m in host.fleet.FetchAdapter(fetch(A, tasks[A].binding))])
        assert len(adapter) == tasks[A].adapter_size
        assert hashlib.sha256(adapter).hexdigest() == tasks[A].binding.base_adapter
        updates = {device: host.update(seed) for seed, device in enumerate(tasks)}
        for device, update in updates.items():
            assert (await host.upload(device, tasks[device].binding, update)).endswith(f"/1/{device}")
        await host.settle()
        again = (await host.tasks([A, B]))[A]
        assert again.binding.round == 2
        second = b"".join([m.data async for m in host.fleet.FetchAdapter(fetch(A, again.binding))])
        mean = decode(bundle.manifest.adapter, second)
        np.testing.assert_allclose(mean.sH, (updates[A].sH + updates[B].sH) / 2, atol=1e-6)

    played(bundle, tmp_path, play)


def test_the_bundle_comes_file_by_file_from_any_offset(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        run = await host.begin()

        async def fetched(file: str, offset: int = 0) -> bytes:
            request = pb.FetchBundleRequest(device_id=A, bundle_id=run.bundle_id, file=file, offset=offset)
            return b"".join([m.data async for m in host.fleet.FetchBundle(request)])

        assert Manifest.from_json(await fetched("manifest.json")).bundle_id == run.bundle_id
        for name in bundle.manifest.files:
            whole = bundle.path(name).read_bytes()
            assert await fetched(name) == whole
            assert await fetched(name, len(whole) - 5) == whole[-5:]
            assert await fetched(name, 2**63 - 1) == b""
        for secret in ("source/model.safetensors", "../bundle/manifest.json", "/etc/passwd", "\0", ""):
            assert (await refusal(fetched(secret)))[:2] == ("not-found", "NOT_FOUND")

    played(bundle, tmp_path, play)


def fetch(device: str, binding: pb.Binding) -> pb.FetchAdapterRequest:
    return pb.FetchAdapterRequest(device_id=device, binding=binding)


def set_field(name: str, value: object) -> Change:
    return lambda binding: setattr(binding, name, value)


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        (set_field("round", 0), "stale-round", "FAILED_PRECONDITION"),
        (set_field("round", 2), "future-round", "FAILED_PRECONDITION"),
        (set_field("run_id", "another"), "not-found", "NOT_FOUND"),
        (set_field("bundle_id", "0" * 64), "wrong-bundle", "FAILED_PRECONDITION"),
        (set_field("adapter_spec", "0" * 64), "wrong-spec", "FAILED_PRECONDITION"),
        (set_field("base_adapter", "0" * 64), "wrong-base", "FAILED_PRECONDITION"),
    ],
)
def test_an_update_bound_to_something_else_is_refused(
    bundle: Bundle, tmp_path: Path, change: Change, code: str, status: str
) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        change(binding)
        assert (await refusal(host.upload(A, binding, host.update(0))))[:2] == (code, status)
        await nothing_stored(host, tmp_path)

    played(bundle, tmp_path, play)


def edited(position: int, replacement: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + replacement + data[position + len(replacement) :]


@pytest.mark.parametrize(
    ("edit", "code", "status"),
    [
        (lambda data: data[:-4], "malformed-update", "INVALID_ARGUMENT"),
        (lambda data: b"", "malformed-update", "INVALID_ARGUMENT"),
        (edited(0, b"GGUF"), "malformed-update", "INVALID_ARGUMENT"),
        (edited(8, bytes(32)), "wrong-spec", "FAILED_PRECONDITION"),
        (edited(40, struct.pack("<I", 99)), "wrong-shape", "INVALID_ARGUMENT"),
        (edited(52, struct.pack("<HH", 77, 0)), "unknown-head", "INVALID_ARGUMENT"),
        (lambda data: data[:-4] + struct.pack("<f", float("nan")), "not-finite", "INVALID_ARGUMENT"),
        (lambda data: data[:-4] + struct.pack("<f", float("inf")), "not-finite", "INVALID_ARGUMENT"),
        (lambda data: data + bytes(4), "too-large", "RESOURCE_EXHAUSTED"),
    ],
)
def test_an_update_that_is_wrong_inside_is_refused_and_the_round_goes_on(
    bundle: Bundle, tmp_path: Path, edit: Callable[[bytes], bytes], code: str, status: str
) -> None:
    async def play(host: Host) -> None:
        await host.begin(clients_per_round=1, rounds=1)
        binding = (await host.tasks([A]))[A].binding
        good = encode(bundle.manifest.adapter, host.update(0))
        assert (await refusal(host.upload(A, binding, edit(good))))[:2] == (code, status)
        await nothing_stored(host, tmp_path)
        await host.upload(A, binding, good)
        await host.settle()
        assert (await host.coordinator.find_run("")).adapter == hashlib.sha256(good).hexdigest()

    played(bundle, tmp_path, play)


async def nothing_stored(host: Host, state: Path) -> None:
    assert [path for path in (state / "updates").rglob("*") if path.is_file()] == []
    run = await host.coordinator.find_run("")
    parts = host.coordinator._storage.state.assignments(run.run_id)
    assert all(part.sha256 is None for part in parts)


def test_bytes_that_do_not_match_their_header_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        data = encode(bundle.manifest.adapter, host.update(0))

        def header(**fields: object) -> pb.UploadHeader:
            sound = {"device_id": A, "binding": binding, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            return pb.UploadHeader(**(sound | fields))  # type: ignore[arg-type]

        wrong: list[tuple[dict[str, Any], str]] = [
            ({"sha256": "0" * 64}, "wrong-hash"),
            ({"sha256": "zz"}, "bad-request"),
            ({"size": len(data) - 1}, "too-large"),
            ({"size": 2**63}, "too-large"),
            ({"size": 0}, "too-large"),
            ({"device_id": "../../x"}, "bad-request"),
            ({"device_id": ""}, "bad-request"),
        ]
        for fields, code in wrong:
            assert (await refusal(host.send(header(**fields), data)))[0] == code, fields
        await nothing_stored(host, tmp_path)

    played(bundle, tmp_path, play)


def test_an_upload_in_another_order_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        header = pb.UploadUpdateRequest(header=pb.UploadHeader(device_id=A, binding=binding, sha256="0" * 64, size=8))

        async def stream(*messages: pb.UploadUpdateRequest) -> AsyncIterator[pb.UploadUpdateRequest]:
            for message in messages:
                yield message

        for messages in ([], [pb.UploadUpdateRequest(data=b"x")], [header, header], [pb.UploadUpdateRequest()]):
            assert (await refusal(host.fleet.UploadUpdate(stream(*messages))))[0] == "bad-request"

    played(bundle, tmp_path, play)


def test_an_update_counts_once_however_often_it_is_sent(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        tasks = await host.tasks([A, B])
        receipts = {await host.upload(A, tasks[A].binding, host.update(1)) for _ in range(3)}
        receipts |= set(await asyncio.gather(*(host.upload(A, tasks[A].binding, host.update(1)) for _ in range(5))))
        assert len(receipts) == 1
        assert (await refusal(host.upload(A, tasks[A].binding, host.update(2))))[:2] == ("conflict", "ALREADY_EXISTS")
        await host.upload(B, tasks[B].binding, host.update(3))
        await host.settle()
        mean = (host.update(1).sH + host.update(3).sH) / 2
        run = await host.coordinator.find_run("")
        published = decode(bundle.manifest.adapter, host.coordinator._storage.adapters.get(run.adapter))
        np.testing.assert_allclose(published.sH, mean, atol=1e-6)

    played(bundle, tmp_path, play)


def test_a_late_update_is_told_so(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(clients_per_round=1, over_select=1, rounds=1)
        tasks = await host.tasks([A, B])
        await host.upload(A, tasks[A].binding, host.update(0))
        await host.settle()
        assert (await refusal(host.upload(B, tasks[B].binding, host.update(1))))[:2] == (
            "round-closed",
            "FAILED_PRECONDITION",
        )

    played(bundle, tmp_path, play)


def test_a_device_without_a_part_can_neither_fetch_nor_upload(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        assert (await refusal(host.upload(C, binding, host.update(0))))[:2] == ("not-selected", "PERMISSION_DENIED")
        assert (await refusal(anext(aiter(host.fleet.FetchAdapter(fetch(C, binding))))))[0] == "not-selected"
        answer = await host.check_in(C)
        assert answer.wait.reason == pb.WAIT_REASON_NOT_SELECTED

    played(bundle, tmp_path, play)


def test_the_round_closes_without_a_device_that_never_answers(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(deadline=0.2)
        tasks = await host.tasks([A, B])
        await host.upload(A, tasks[A].binding, host.update(0))
        await asyncio.sleep(0.25)
        await host.settle()
        rejoined = await host.tasks([A, B])
        assert sorted(rejoined) == [A, B]
        assert rejoined[B].binding.round == 2

    played(bundle, tmp_path, play)


def test_a_device_that_gives_its_part_back_does_not_hold_the_round(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        tasks = await host.tasks([A, B])
        await host.upload(A, tasks[A].binding, host.update(0))
        report = pb.ReportFailureRequest(device_id=B, binding=tasks[B].binding, code="no-examples", reason="None.")
        await host.fleet.ReportFailure(report)
        await host.settle()
        run = await host.coordinator.find_run("")
        assert host.coordinator._storage.state.rounds(run.run_id)[0].state is RoundState.PUBLISHED

    played(bundle, tmp_path, play)


def test_a_device_that_comes_back_gets_its_task_again(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        task = (await host.tasks([A, B]))[A]
        again = (await host.check_in(A)).task
        assert again.binding == task.binding

    played(bundle, tmp_path, play)


def test_a_restarted_server_goes_on_with_the_round(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            await host.begin(rounds=1)
            tasks = await host.tasks([A, B])
            receipt = await host.upload(A, tasks[A].binding, host.update(0))
        async with hosting(tmp_path, bundle) as host:
            host.run = await host.coordinator.find_run("")
            assert await host.upload(A, tasks[A].binding, host.update(0)) == receipt
            await host.upload(B, tasks[B].binding, host.update(1))
            await host.settle()
            run = await host.coordinator.find_run("")
            published = decode(bundle.manifest.adapter, host.coordinator._storage.adapters.get(run.adapter))
            np.testing.assert_allclose(published.sH, (host.update(0).sH + host.update(1).sH) / 2, atol=1e-6)

    asyncio.run(scene())


@pytest.mark.parametrize("budget", [0.0, 1.5, float("nan"), float("inf"), -1.0])
def test_a_senseless_budget_is_refused(bundle: Bundle, tmp_path: Path, budget: float) -> None:
    async def play(host: Host) -> None:
        assert (await refusal(host.check_in(A, budget)))[:2] == ("bad-request", "INVALID_ARGUMENT")

    played(bundle, tmp_path, play)


@pytest.mark.parametrize("field", ["first_loss", "last_loss", "seconds"])
def test_a_report_that_is_no_number_is_refused_before_anything_is_stored(
    bundle: Bundle, tmp_path: Path, field: str
) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        header = pb.UploadHeader(device_id=A, binding=binding, sha256="0" * 64, size=8)
        setattr(header.report, field, float("nan"))
        assert (await refusal(host.send(header, bytes(8))))[0] == "bad-request"
        await nothing_stored(host, tmp_path)

    played(bundle, tmp_path, play)


def test_a_refused_rival_of_a_counted_update_leaves_no_bytes(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        outcomes = await asyncio.gather(
            *(host.upload(A, binding, host.update(seed)) for seed in range(5)), return_exceptions=True
        )
        assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
        assert len([path for path in (tmp_path / "updates").rglob("*") if path.is_file()]) == 1

    played(bundle, tmp_path, play)


def test_a_full_disk_refuses_an_update_with_its_reason_and_takes_it_later(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(host: Host) -> None:
        await host.begin()
        binding = (await host.tasks([A, B]))[A].binding
        with monkeypatch.context() as broken:

            def full(_: int) -> None:
                raise OSError(28, "No space left on device")

            broken.setattr("ravan.files.os.fsync", full)
            code, status, sentence = await refusal(host.upload(A, binding, host.update(0)))
        assert (code, status) == ("disk-full", "UNAVAILABLE")
        assert "free some space" in sentence
        await nothing_stored(host, tmp_path)
        assert await host.upload(A, binding, host.update(0))

    played(bundle, tmp_path, play)


def test_control_characters_of_a_device_never_reach_the_operator(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        capabilities = pb.Capabilities(head_budget=1.0)
        name = "[/evil]\x1b]0;title\x07\x1b[2J\n"
        await host.fleet.CheckIn(pb.CheckInRequest(device_id=A, name=name, capabilities=capabilities))
        (device,) = (await host.control.ListDevices(control.ListDevicesRequest())).devices
        assert device.name == "[/evil]]0;title[2J"
        shown = io.StringIO()
        Console(file=shown, width=200).print(device_table([device]))
        assert "[/evil]]0;title[2J" in shown.getvalue()

    played(bundle, tmp_path, play)


def test_the_largest_numbers_a_device_can_send_are_taken(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        capabilities = pb.Capabilities(cores=2**32 - 1, memory_bytes=2**64 - 1, head_budget=1.0, machine="x" * 9999)
        request = pb.CheckInRequest(device_id=A, name="n" * 9999, capabilities=capabilities)
        assert (await host.fleet.CheckIn(request)).wait.reason == pb.WAIT_REASON_NO_RUN

    played(bundle, tmp_path, play)


def test_every_error_that_crosses_the_wire_has_a_status_and_a_code_of_its_own() -> None:
    def below(kind: type[errors.RavanError]) -> set[type[errors.RavanError]]:
        return {kind} | {lower for sub in kind.__subclasses__() for lower in below(sub)}

    refusals = below(server_errors.Refusal) - {server_errors.Refusal}
    updates = below(errors.UpdateError) - {errors.UpdateError}
    assert refusals | updates <= set(STATUS)
    codes = [kind.code for kind in STATUS]
    assert len(set(codes)) == len(codes)


def test_a_client_that_trained_some_heads_leaves_the_others_as_they_were(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(clients_per_round=1, rounds=1)
        binding = (await host.tasks([A]))[A].binding
        full = host.update(5)
        heads = np.zeros_like(full.heads)
        heads[:, 2] = True
        some = Update(heads, full.sH.reshape(*heads.shape, *full.sH.shape[1:])[heads], full.saved)
        await host.upload(A, binding, some)
        await host.settle()
        run = await host.coordinator.find_run("")
        published = decode(bundle.manifest.adapter, host.coordinator._storage.adapters.get(run.adapter))
        changed = published.sH.reshape(*heads.shape, -1).any(axis=2)
        np.testing.assert_array_equal(changed, heads)

    played(bundle, tmp_path, play)
