"""Promise 5: an asynchronous run over many lives of one server, killed at named points, with devices of unlike speed.

What devices drew depends on when they asked, so every adapter is computed again in memory from what the state says of
the order of receipt: the bits must be the same, and the order must be one that devices hold receipts for.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reliability.bundle import filler_bundle
from benchmarks.reliability.crash import IN_ORDER, drawn
from benchmarks.reliability.devices import QUICK, Device, Reference, draw
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.trial import KillTrial, Persistence, create_once
from edge.fleet_client import FleetClient
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import INITIAL, Bundle
from ravan.spec import AdapterSpec
from ravan.staleness import carried_over
from ravan.update import Update
from server.blobs import FileBlobs
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
class Trial(KillTrial):
    """Over many lives of one server.

    Attributes:
        staleness: of folded updates, how many of each.
    """

    staleness: Counter[int] = field(default_factory=Counter)

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
            self.play(devices, MOST_SECONDS)
        finally:
            over.set()
            keeper.join()
            for device in devices:
                device.end()
        self._look(server, bundle, devices, options)
        return self

    def _live(self, server: Server, over: threading.Event) -> None:
        for fault in (*self.faults, ""):
            self.live(server, fault, over, LIFE_SECONDS)
            if over.is_set():
                return

    def _look(self, server: Server, bundle: Bundle, devices: Sequence[Device], options: RunOptions) -> None:
        """Asks the state on disk."""
        numbers = {device.device_id: device.number for device in devices}
        with closing(open_sqlite(server.state)) as state:
            (run,) = state.runs()
            rounds = state.rounds(run.run_id)
            self.check({r.state for r in rounds} == {RoundState.PUBLISHED}, "a round was not published")
            counted = {r.number: state.counted(run.run_id, r.number) for r in rounds}
            self.check(all(len(parts) == BUFFER for parts in counted.values()), "a round has other than its updates")
            initial = bundle.path(INITIAL).read_bytes()
            wanted = recomputed(bundle.manifest.adapter, initial, counted, numbers, options)
            self.check([r.adapter for r in rounds] == wanted, "a published adapter has other bits")
            parts = state.assignments(run.run_id)
        for number, taken in counted.items():
            self.staleness.update(number - part.round for part in taken)
        self.check(max(self.staleness) <= STALEST, "an update is staler than may be")
        self.check_receipts(parts, devices, set(FileBlobs(server.state / "updates").names()))
        received = sum(part.state is AssignmentState.RECEIVED for part in parts)
        self.check(received == self.receipts == BUFFER * self.rounds, "updates and receipts are not the same ones")
        for device in devices:
            self.check(set(device.refused) <= MAY_BE_REFUSED, f"a device was refused: {set(device.refused)}")


def recomputed(
    spec: AdapterSpec,
    first: bytes,
    counted: Mapping[int, Sequence[Assignment]],
    numbers: Mapping[str, int],
    options: RunOptions,
) -> list[str]:
    """sha256 of every round's adapter, from who was counted in it in which order."""
    reference, digests = Reference(spec, first, options), []
    bases: dict[int, Update] = {}
    for number, parts in sorted(counted.items()):
        bases[number] = reference.adapter
        updates = {
            f"{place:03}": _carried(spec, bases, numbers[part.device_id], part.round, number)
            for place, part in enumerate(parts)
        }
        digests.append(reference.publish(updates))
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
