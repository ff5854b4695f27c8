"""Promise 4: many devices cost little, and slow ones hold nobody up.

First 2,000 devices, each with a connection of its own, check in and come back when they are told to (``held.py``).
Then rounds of four honest devices with updates of 4.6 MB beside 1,000 devices with a part in the same rounds: at first
these only have it, then each holds an upload open and sends a byte now and then (``slow.py``).
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.reliability.bundle import LARGE, SMALL
from benchmarks.reliability.devices import Device, draw, header_of, plain_devices, tasks_of
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.held import Crowd, crowd
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.once import hosting
from benchmarks.reliability.pulse import Memory
from benchmarks.reliability.slow import check_in, slow_uploads
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import INITIAL
from ravan.sizes import largest_size
from ravan.update import decode, encode
from server.records import RoundState
from server.sql_state import open_sqlite
from server.state import State

HELD, HELD_SECONDS = 2000, 90.0
HELD_MEMORY = 300.0  # MB
SETTLED = 40.0  # seconds until all devices are there and know their windows
SHARE = 0.1
"""Of the devices, that come back within the same second, at most."""
SLOW, HONEST, ROUNDS = 1000, 4, 5
SLOWER = 1.2


def figures(folder: Path) -> Iterator[Figure]:
    """The crowd, then the slow ones."""
    yield from held(folder / "held", HELD, HELD_SECONDS, SETTLED)
    yield slow(folder / "slow", SLOW, ROUNDS)


def held(folder: Path, count: int, seconds: float, settled: float) -> tuple[Figure, Figure]:
    """What devices cost that wait for a round."""
    options = {"clients_per_round": 10 * count, "poll_min": 2.0, "poll_max": 6.0}
    with hosting(folder, SMALL, options) as (server, _):
        memory, began = Memory(server.pid), time.time()
        with crowd(server.address, count) as seen:
            time.sleep(seconds)
        grown = memory.grown()
    cost = Figure(
        4,
        f"{count:,} devices with a connection each, held for {seconds:.0f} s: growth of the server's memory",
        f"under {HELD_MEMORY:.0f} MB",
        f"{grown:.0f} MB; {len(seen.moments):,} check-ins, {seen.failed} without an answer",
        met=grown < HELD_MEMORY and not seen.failed and len(seen.moments) >= count,
    )
    rate, busiest = spread(seen, began + settled)
    pace = Figure(
        4,
        f"when they come back, of whom the run alone would ask for {count / 4:,.0f} check-ins a second",
        f"at most {SHARE:.0%} of them within one second",
        f"{rate:.0f} check-ins a second, {busiest / count:.1%} of the devices in the busiest one",
        met=busiest <= SHARE * count,
    )
    return cost, pace


def spread(seen: Crowd, since: float) -> tuple[float, int]:
    """Check-ins a second, on average and in the busiest second."""
    counts = Counter(int(moment) for moment in seen.moments if moment >= since)
    whole = [counts[second] for second in range(min(counts) + 1, max(counts))]
    return statistics.mean(whole), max(whole)


def slow(folder: Path, count: int, rounds: int) -> Figure:
    """Rounds beside devices that have a part, then beside the same with slow uploads."""
    everybody = HONEST + count
    options = {
        "rounds": 2 * rounds + 1,
        "clients_per_round": HONEST,
        "over_select": count,
        "min_devices": everybody,
        "poll_max": 600.0,
        "deadline": 3600.0,
        "keep_updates": 1,
    }
    with hosting(folder, LARGE, options) as (server, bundle), ExitStack() as stack:
        devices = plain_devices(server, LARGE, HONEST)
        for device in devices:
            stack.callback(device.end)
        base = (bundle.folder / INITIAL).read_bytes()
        data = [encode(LARGE, draw(LARGE, decode(LARGE, base), device.number, 1)) for device in devices]
        asyncio.run(check_in(server.address, HONEST, count))
        trial = Rounds(server, devices, data)
        trial.play()  # the first one opens files and connections
        undisturbed = [trial.play() for _ in range(rounds)]
        binding = tasks_of(devices)[0].binding
        with slow_uploads(server.address, HONEST, count, binding, largest_size(LARGE)) as still:
            disturbed = [trial.play() for _ in range(rounds)]
    ratio = statistics.median(disturbed) / statistics.median(undisturbed)
    return Figure(
        4,
        f"a round of {HONEST} devices, 4.6 MB each, beside {count:,} uploads that trickle: median of {rounds} against "
        f"{rounds} undisturbed",
        f"at most {SLOWER} times",
        f"{ratio:.2f} times ({statistics.median(disturbed):.2f} s against {statistics.median(undisturbed):.2f} s); "
        f"{still[0]:,} were still held at the end",
        met=ratio <= SLOWER and still[0] == count,
    )


class Rounds:
    """Rounds that honest devices play one after the other."""

    def __init__(self, server: Server, devices: list[Device], data: list[bytes]) -> None:
        self._server = server
        self._devices = devices
        self._data = data

    def play(self) -> float:
        """Seconds from the first byte of an upload until the round is published."""
        tasks = tasks_of(self._devices)
        headers = [
            header_of(device.device_id, task.binding, data)
            for device, task, data in zip(self._devices, tasks, self._data, strict=True)
        ]
        began = time.monotonic()
        with ThreadPoolExecutor(len(headers)) as pool:
            list(pool.map(lambda i: self._devices[i].client.upload(headers[i], self._data[i]), range(len(headers))))
        with closing(open_sqlite(self._server.state)) as state:
            while not _is_published(state, tasks[0].binding):
                time.sleep(0.005)
        return time.monotonic() - began


def _is_published(state: State, binding: pb.Binding) -> bool:
    rounds = {r.number: r.state for r in state.rounds(binding.run_id)}
    return rounds[binding.round] is RoundState.PUBLISHED
