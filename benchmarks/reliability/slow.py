"""Slow uploads: each begins as a device's upload does, and then sends a byte now and then.

usage: python -m benchmarks.reliability.slow ADDRESS FIRST COUNT BINDING: until the input ends; BINDING is a pb.Binding
in hex. Says "ready" once all are under way, and at the end how many were still held.
"""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import grpc

from benchmarks.reliability.devices import CAPABILITIES
from protos.ravan.v1 import fleet_pb2 as pb
from protos.ravan.v1 import fleet_pb2_grpc as rpc
from ravan.rpc.transfer import CHANNEL_OPTIONS

STREAMS = 50  # of a connection
EVERY = 10.0  # seconds between two bytes


@contextmanager
def slow_uploads(address: str, first: int, count: int, binding: pb.Binding, size: int) -> Iterator[list[int]]:
    """So many slow uploads by devices that have a part in the round; at the end, how many were still held."""
    command = [sys.executable, "-m", "benchmarks.reliability.slow", address, str(first), str(count), str(size)]
    process = subprocess.Popen(
        [*command, binding.SerializeToString().hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    held: list[int] = []
    try:
        process.stdout.readline()
        yield held
        told, _ = process.communicate(b"", 60)
        held.append(int(told))
    finally:
        process.kill()
        process.wait()


async def trickle(address: str, first: int, count: int, size: int, binding: pb.Binding) -> int:
    """Keeps all going until the input ends."""
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(address, [*options, ("ravan.connection", number)])
        for number in range(-(-count // STREAMS))
    ]
    begun = 0

    async def messages(number: int) -> AsyncIterator[pb.UploadUpdateRequest]:
        nonlocal begun
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        device = f"{number + 1:032x}"
        yield pb.UploadUpdateRequest(
            header=pb.UploadHeader(device_id=device, binding=binding, sha256=sha256, size=size)
        )
        begun += 1
        await asyncio.sleep(EVERY * number / count % EVERY)
        while True:
            yield pb.UploadUpdateRequest(data=b"x")
            await asyncio.sleep(EVERY)

    async def one(number: int) -> None:
        await rpc.FleetStub(channels[number % len(channels)]).UploadUpdate(messages(number))

    tasks = [asyncio.create_task(one(number)) for number in range(first, first + count)]
    while begun < count and not all(task.done() for task in tasks):
        await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    held = sum(not task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return held


async def check_in(address: str, first: int, count: int) -> None:
    """Makes so many devices known to the server as present."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.FleetStub(channel)
        for number in range(first, first + count):
            request = pb.CheckInRequest(device_id=f"{number + 1:032x}", name="slow", capabilities=CAPABILITIES)
            await stub.CheckIn(request, timeout=60)


if __name__ == "__main__":
    at, from_number, how_many, how_large, bound = sys.argv[1:]
    to = pb.Binding.FromString(bytes.fromhex(bound))
    print(asyncio.run(trickle(at, int(from_number), int(how_many), int(how_large), to)))
