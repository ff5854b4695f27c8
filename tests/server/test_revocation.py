"""A device that is revoked in the middle of a round: the round ends without it, and without its update."""

import asyncio
from pathlib import Path

import numpy as np

from protos.ravan.v1 import control_pb2 as pb
from ravan.bundle import Bundle
from ravan.update import decode
from server.records import Holder, RoundState
from tests.server.hosting import DEVICES, Host, hosting, refusal

A, B, C = DEVICES[:3]


def enroll(host: Host, device: str) -> None:
    """A device that the server knows by a key."""
    state = host.coordinator._storage.state
    state.add_tokens([device], 0.0, 1.0)
    state.enroll(device, Holder(device, 2 * device, "test", 0.0))


def test_a_round_waits_no_more_for_a_revoked_device(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            enroll(host, A)
            run = await host.begin()
            tasks = await host.tasks([A, B])
            await host.upload(B, tasks[B].binding, host.update(1))
            await host.control.RevokeDevice(pb.RevokeDeviceRequest(device_id=A))
            await host.settle()
            assert host.coordinator._storage.state.rounds(run.run_id)[0].state is RoundState.PUBLISHED
            assert sorted(await host.tasks([A, B, C])) == [B, C]

    asyncio.run(scene())


def test_what_a_revoked_device_uploaded_is_not_averaged(bundle: Bundle, tmp_path: Path) -> None:
    async def scene() -> None:
        async with hosting(tmp_path, bundle) as host:
            enroll(host, A)
            run = await host.begin(rounds=1)
            tasks = await host.tasks([A, B])
            await host.upload(A, tasks[A].binding, host.update(0))
            await host.control.RevokeDevice(pb.RevokeDeviceRequest(device_id=A))
            assert (await refusal(host.upload(A, tasks[A].binding, host.update(0))))[:2] == (
                "revoked",
                "PERMISSION_DENIED",
            )
            await host.upload(B, tasks[B].binding, host.update(1))
            await host.settle()
            adapter = (await host.coordinator.find_run(run.run_id)).adapter
            published = decode(bundle.manifest.adapter, host.coordinator._storage.adapters.get(adapter))
            np.testing.assert_allclose(published.sH, host.update(1).sH, atol=1e-6)

    asyncio.run(scene())
