"""Promise 5: an asynchronous run over many lives of one server, killed at named points, with devices of unlike speed.

What devices drew depends on when they asked, so every adapter is computed again in memory from what the state says of
the order of receipt: the bits must be the same, and the order must be one that devices hold receipts for.
"""

import contextlib
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.reliability.bundle import filler_bundle
from benchmarks.reliability.crash import IN_ORDER, Persistence, create_once, drawn
from benchmarks.reliability.devices import QUICK, Device, draw
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from edge.fleet_client import FleetClient
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.aggregate import Contribution
from ravan.bundle import INITIAL, Bundle
from ravan.errors import EnvironmentProblem
from ravan.layout import Vector
from ravan.spec import AdapterSpec
from ravan.staleness import carried_over
from ravan.update import Update, decode, encode
from server.records import Assignment, AssignmentState, RoundState
from server.settings import Mode, RunOptions
from server.sql_state import open_sqlite

BUFFER, STALEST, ROUNDS, KILLS = 3, 4, 120, 30
PAUSES = (0.0, 0.0, 0.02, 0.1, 0.3)
"""Seconds that each device takes to train."""
LIFE_SECONDS = 4.0
MOST_SECONDS = 600.0
MAY_BE_REFUSED = {"too-stale", "round-closed"}
SEED = 8
POINTS = tuple(point for point in IN_ORDER if point != "devices-selected")


@dataclass
class Slow(Device):
    """A device that takes its time.

    Attributes:
        pause: seconds.
    """

    pause: float = 0.0

    def _take_part(self, task: pb.Task) -> None:
        self.stop.wait(self.pause)
        super()._take_part(task)


@dataclass
class Trial:
    """One run; see ``crash.Trial``.

    Attributes:
        staleness: of folded updates, how many of each.
    """

    folder: Path
    faults: Sequence[str]
    rounds: int
    kills: Counter[str] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)
    receipts: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self) -> "Trial":
        """Plays the run to its end, and looks at what is left."""
        bundle, server, over = filler_bundle(self.folder / "bundle"), Server(self.folder), threading.Event()
        options = RunOptions(
            mode=Mode.ASYNC,
            buffer=BUFFER,
            max_staleness=STALEST,
            rounds=self.rounds,
            keep_updates=self.rounds,
            server_optimizer="fedadam",
            max_norm_ratio=0,
            poll_min=0.01,
            poll_max=0.02,
        )
        keeper = threading.Thread(target=self._live, args=(server, over))
        keeper.start()
        devices = [_device(server, bundle, number) for number in range(len(PAUSES))]
        try:
            settings = {**options.model_dump(mode="json"), "bundle": str(bundle.folder)}
            Persistence(over)(create_once, server, settings)
            self._play(devices)
        finally:
            over.set()
            keeper.join()
            for device in devices:
                device.end()
        self._look(server, bundle, devices, options)
        return self

    def _live(self, server: Server, over: threading.Event) -> None:
        for fault in (*self.faults, ""):
            server.start(fault)
            with contextlib.suppress(EnvironmentProblem):  # it may be killed before it answers
                server.wait()
            end = time.monotonic() + LIFE_SECONDS
            while server.runs and not over.is_set() and not (fault and time.monotonic() > end):
                over.wait(0.01)
            if server.was_killed:
                self.kills[fault.partition(":")[0]] += 1
            elif fault and not over.is_set():
                self.kills["any moment"] += 1
            server.kill()
            if over.is_set():
                return

    def _play(self, devices: Sequence[Device]) -> None:
        for device in devices:
            device.start()
        end = time.monotonic() + MOST_SECONDS
        while not all(device.is_done for device in devices):
            if time.monotonic() > end:
                self.problems.append("the run did not finish in time")
                return
            time.sleep(0.02)

    def _look(self, server: Server, bundle: Bundle, devices: Sequence[Device], options: RunOptions) -> None:
        """Asks the state on disk."""
        numbers = {device.device_id: device.number for device in devices}
        with closing(open_sqlite(server.state)) as state:
            (run,) = state.runs()
            rounds = state.rounds(run.run_id)
            self._check({r.state for r in rounds} == {RoundState.PUBLISHED}, "a round was not published")
            counted = {r.number: state.counted(run.run_id, r.number) for r in rounds}
            self._check(all(len(parts) == BUFFER for parts in counted.values()), "a round has other than its updates")
            initial = bundle.path(INITIAL).read_bytes()
            wanted = recomputed(bundle.manifest.adapter, initial, counted, numbers, options)
            self._check([r.adapter for r in rounds] == wanted, "a published adapter has other bits")
            parts = {(p.round, p.device_id): p for p in state.assignments(run.run_id)}
            for number, taken in counted.items():
                self.staleness.update(number - part.round for part in taken)
            self._look_at_receipts(parts, devices)
        self._check(max(self.staleness) <= STALEST, "an update is staler than may be")

    def _look_at_receipts(self, parts: Mapping[tuple[int, str], Assignment], devices: Sequence[Device]) -> None:
        received = sum(part.state is AssignmentState.RECEIVED for part in parts.values())
        for device in devices:
            self._check(set(device.refused) <= MAY_BE_REFUSED, f"a device was refused: {set(device.refused)}")
            for number, (receipt, sha256) in device.receipts.items():
                part = parts[number, device.device_id]
                kept = (part.receipt, part.state, part.sha256) == (receipt, AssignmentState.RECEIVED, sha256)
                self._check(kept and part.folded_in is not None, f"receipt {receipt} is not folded")
                self.receipts += 1
        self._check(received == self.receipts == BUFFER * self.rounds, "updates and receipts are not the same ones")

    def _check(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001
        if not holds:
            self.problems.append(otherwise)


def recomputed(
    spec: AdapterSpec,
    first: bytes,
    counted: Mapping[int, Sequence[Assignment]],
    numbers: Mapping[str, int],
    options: RunOptions,
) -> list[str]:
    """sha256 of every round's adapter, from who was counted in it in which order."""
    adapter, digests = decode(spec, first), []
    bases: dict[int, Update] = {}
    memory: tuple[Vector, ...] = ()
    for number, parts in sorted(counted.items()):
        bases[number] = adapter
        drawn_by = [
            Contribution(f"{place:03}", partial(_carried, spec, bases, numbers[part.device_id], part.round, number))
            for place, part in enumerate(parts)
        ]
        combined = options.rule()(spec, adapter, drawn_by)
        adapter, memory = options.optimizer_of_server().step(spec, adapter, combined, memory)
        digests.append(hashlib.sha256(encode(spec, adapter)).hexdigest())
    return digests


def _carried(spec: AdapterSpec, bases: Mapping[int, Update], device: int, began: int, number: int) -> Update:
    return carried_over(draw(spec, bases[began], device, began), bases[began], bases[number], number - began)


def figures(folder: Path) -> Iterator[Figure]:
    """One run of ``ROUNDS`` rounds, with ``KILLS`` kills."""
    generator = random.Random(SEED)
    faults = [fault for _ in range(KILLS) for fault in drawn([generator.choice(POINTS)], generator, 2)]
    yield from outcome(Trial(folder, faults, ROUNDS).run(), KILLS)


def outcome(trial: Trial, least: int) -> Iterator[Figure]:
    """What a trial amounts to."""
    problems, killed = "; ".join(sorted(set(trial.problems))), trial.kills.total()
    ages = ", ".join(f"{count} of {age}" for age, count in sorted(trial.staleness.items()))
    yield Figure(
        5,
        f"kill -9 of a server whose {len(PAUSES)} devices train at their own pace, {BUFFER} updates a round",
        f"at least {least} kills",
        f"{killed} kills over {len(trial.kills)} points",
        met=killed >= least,
    )
    yield Figure(
        5,
        "receipts that devices held in the end",
        "each folded, once",
        problems or f"all {trial.receipts:,} folded, each once",
        met=not problems,
    )
    yield Figure(
        5,
        "published adapters, against a fold in memory in the order of receipt",
        "bit-equal",
        problems or f"{trial.rounds} of {trial.rounds} rounds bit-equal",
        met=not problems,
    )
    yield Figure(
        5,
        "staleness of the folded updates, in adapters published since they began",
        f"at most {STALEST}",
        f"updates by staleness: {ages}",
        met=not problems and len(trial.staleness) > 1,
    )


def _device(server: Server, bundle: Bundle, number: int) -> Device:
    stop = threading.Event()
    client = FleetClient(server.address, f"{number + 1:032x}", stop, patience=QUICK)
    return Slow(number, bundle.manifest.adapter, client, stop, pause=PAUSES[number])
