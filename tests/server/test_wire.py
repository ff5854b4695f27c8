"""Runs whose updates are coded: told in the plan, decoded before they are judged, combined exactly as received."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.aggregate import Contribution, average
from ravan.bundle import Bundle
from ravan.parts import over
from ravan.rpc.plan import WIRE_FORMATS, plan_from_proto
from ravan.sizes import header_size
from ravan.update import Update, decode, encode
from ravan.wire import WireFormat, nothing_left_out, pack, unpack
from tests.server.hosting import DEVICES, Host, refusal
from tests.server.test_fleet import nothing_stored, played

A, B = DEVICES[:2]
CODED = (WireFormat.FP16, WireFormat.INT8)
ALL = list(WIRE_FORMATS.values())


def base_of(host: Host, binding: pb.Binding) -> Update:
    adapter = host.coordinator._storage.adapters.get(binding.base_adapter)
    return decode(host.bundle.manifest.adapter, adapter)


def packed(host: Host, wire: WireFormat, binding: pb.Binding, seed: int) -> bytes:
    """A device's upload."""
    spec, base = host.bundle.manifest.adapter, base_of(host, binding)
    return pack(spec, wire, base, over(base, host.update(seed)), nothing_left_out(spec)).data


@pytest.mark.parametrize("wire", CODED)
def test_the_mean_is_exact_over_what_was_received(bundle: Bundle, tmp_path: Path, wire: WireFormat) -> None:
    async def play(host: Host) -> None:
        spec = bundle.manifest.adapter
        await host.begin(rounds=1, wire=wire)
        tasks = await host.tasks([A, B], formats=ALL)
        assert {plan_from_proto(task.plan).wire for task in tasks.values()} == {wire}
        base, received = base_of(host, tasks[A].binding), {}
        for seed, (device, task) in enumerate(tasks.items()):
            data = packed(host, wire, task.binding, seed)
            await host.upload(device, task.binding, data)
            received[device] = unpack(spec, wire, base, data)
        await host.settle()
        run = await host.coordinator.find_run("")
        expected = average(spec, base, [Contribution(d, lambda u=u: u) for d, u in received.items()])  # type: ignore[misc]
        assert host.coordinator._storage.adapters.get(run.adapter) == encode(spec, expected)

    played(bundle, tmp_path, play)


@pytest.mark.parametrize("wire", CODED)
def test_norms_are_those_of_the_decoded_values(bundle: Bundle, tmp_path: Path, wire: WireFormat) -> None:
    async def play(host: Host) -> None:
        await host.begin(rounds=1, wire=wire, max_norm=0.5)
        binding = (await host.tasks([A, B], formats=ALL))[A].binding
        spec, base = bundle.manifest.adapter, base_of(host, binding)
        data = bytearray(pack(spec, wire, base, base, nothing_left_out(spec)).data)
        await_refused = header_size(spec.s_size)
        data[await_refused : await_refused + 4] = struct.pack("<f", 1e6)  # a large scale alone moves nothing
        coefficients = await_refused + 4 * (spec.s_size + len(spec.saved))
        data[coefficients + 1] = 0x40
        assert (await refusal(host.upload(A, binding, bytes(data))))[:2] == ("norm-too-large", "INVALID_ARGUMENT")
        await nothing_stored(host, tmp_path)

    played(bundle, tmp_path, play)


def with_scale(value: float) -> Callable[[Bundle, bytes], bytes]:
    def edit(bundle: Bundle, data: bytes) -> bytes:
        start = header_size(bundle.manifest.adapter.s_size)
        return data[:start] + struct.pack("<f", value) + data[start + 4 :]

    return edit


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (with_scale(float("nan")), "wrong-scale"),
        (with_scale(float("inf")), "wrong-scale"),
        (with_scale(-1.0), "wrong-scale"),
        (with_scale(3e38), "not-finite"),
        (lambda _, data: data[:-1], "malformed-update"),
        (lambda _, data: data[:6] + b"\x07\0" + data[8:], "wrong-format"),
    ],
)
def test_hostile_codings_are_refused_with_a_code(
    bundle: Bundle, tmp_path: Path, edit: Callable[[Bundle, bytes], bytes], code: str
) -> None:
    async def play(host: Host) -> None:
        await host.begin(wire=WireFormat.INT8)
        binding = (await host.tasks([A, B], formats=ALL))[A].binding
        data = edit(bundle, packed(host, WireFormat.INT8, binding, 0))
        assert (await refusal(host.upload(A, binding, data)))[:2] == (code, "INVALID_ARGUMENT")
        await nothing_stored(host, tmp_path)

    played(bundle, tmp_path, play)


def test_an_upload_in_another_format_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(wire=WireFormat.FP16)
        binding = (await host.tasks([A, B], formats=ALL))[A].binding
        assert (await refusal(host.upload(A, binding, host.update(0))))[0] == "too-large"
        smaller = packed(host, WireFormat.INT8, binding, 0)
        assert (await refusal(host.upload(A, binding, smaller)))[:2] == ("wrong-format", "INVALID_ARGUMENT")
        await nothing_stored(host, tmp_path)

    played(bundle, tmp_path, play)


def test_a_device_that_does_not_know_the_format_is_told_so_and_never_selected(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(wire=WireFormat.INT8, clients_per_round=1)
        for formats in ([], [pb.WIRE_FORMAT_FP32, pb.WIRE_FORMAT_FP16, 99]):
            code, status, sentence = await refusal(host.check_in(A, formats=formats))
            assert (code, status) == ("unknown-format", "FAILED_PRECONDITION")
            assert "int8" in sentence
            assert "update ravan-fl" in sentence
        await host.settle()
        assert host.coordinator._storage.state.devices() == []
        assert list(await host.tasks([B], formats=ALL)) == [B]

    played(bundle, tmp_path, play)
