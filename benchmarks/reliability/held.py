"""Devices that wait: each has a connection of its own, checks in, and comes back when it is told to.

The server may hold the check-ins of every other one, as of devices of this version; the others are of an older one.

usage: python -m benchmarks.reliability.held ADDRESS FIRST COUNT: devices FIRST to FIRST + COUNT, until the input ends;
then prints the moments at which they came back, Unix time, and how many calls failed.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc

from benchmarks.reliability.devices import CAPABILITIES
from edge.fleet_client import HOLD_SECONDS
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.rpc.transfer import CHANNEL_OPTIONS

PROCESSES = 4
AGAIN = 2.0  # seconds after a failed call


@dataclass
class Crowd:
    """What the devices saw.

    Attributes:
        moments: of every answered check-in, Unix time.
        failed: check-ins without an answer.
    """

    moments: list[float] = field(default_factory=list)
    failed: int = 0


@contextmanager
def crowd(address: str, count: int) -> Iterator[Crowd]:
    """So many devices in a few processes; what they saw is filled in at the end."""
    seen, each = Crowd(), -(-count // PROCESSES)
    with ExitStack() as stack:
        processes = []
        for first in range(0, count, each):
            command = [sys.executable, "-m", "benchmarks.reliability.held", address, str(first)]
            process = subprocess.Popen(
                [*command, str(min(each, count - first))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield seen
        for process in processes:
            told, _ = process.communicate(b"", 60)
            moments, failed = json.loads(told)
            seen.moments += moments
            seen.failed += failed


async def hold(address: str, first: int, count: int) -> Crowd:
    """Devices until the input ends."""
    seen = Crowd()
    held = [asyncio.create_task(_device(address, number, seen)) for number in range(first, first + count)]
    await asyncio.to_thread(sys.stdin.read)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    return seen


async def _device(address: str, number: int, seen: Crowd) -> None:
    """One device, which comes back at a moment drawn from the window it is given, as edge/device.py does."""
    generator = random.Random(number)
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("ravan.connection", number)]
    await asyncio.sleep(10 * generator.random())  # people do not switch on all devices in the same second
    async with grpc.aio.insecure_channel(address, options) as channel:
        stub = rpc.FleetStub(channel)
        request = pb.CheckInRequest(device_id=f"{number + 1:032x}", name="held", capabilities=CAPABILITIES)
        request.hold_seconds = HOLD_SECONDS * (number % 2)
        while True:
            try:
                wait = (await stub.CheckIn(request, timeout=60)).wait
                seen.moments.append(time.time())
                await asyncio.sleep(generator.uniform(wait.min_seconds, wait.max_seconds))
            except grpc.aio.AioRpcError:
                seen.failed += 1
                await asyncio.sleep(AGAIN)


if __name__ == "__main__":
    at, from_number, how_many = sys.argv[1:]
    result = asyncio.run(hold(at, int(from_number), int(how_many)))
    print(json.dumps([result.moments, result.failed]))
