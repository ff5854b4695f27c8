"""Promise 1: the server is killed at every named point, over and over, in the middle of runs.

A trial is one run, of three devices that must all be counted in every round, over many lives of one server: each life
but the last ends with kill -9 at a point of ``ravan/faults.py``. Devices and operator call again until they are
answered. Then it is asked of the state on disk whether every receipt that a device ever held is kept, and whether the
adapter of every round has exactly the bits that it has without a server that dies.

Lives that a library ends are counted apart. One of some 500 over TLS did so, outside the kept figures, before gRPC was
given a certificate only when it changed (``server/tls.py``). The run went on, and nothing was lost.
"""

import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.bundle import filler_bundle
from benchmarks.reliability.devices import Device, enrolled_devices, expected, plain_devices
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.trial import KillTrial, Persistence, create_once, outlive
from ravan.bundle import INITIAL, Bundle
from ravan.runtime.adapter import read_adapter
from ravan.update import encode
from server.blobs import FileBlobs
from server.records import RoundState, RunState
from server.settings import RunOptions
from server.sql_state import DATABASE, open_sqlite

DEVICES = 3
LIFE_SECONDS = 60.0
FIRST = ("bundle-opened", "initial-stored", "run-created")
IN_ORDER = (
    *("file-written", "file-synced", "round-opened", "devices-selected"),
    *("header-read", "piece-kept", "body-complete", "update-admitted", "file-renamed"),
    *("folder-synced", "update-stored", "before-commit", "committed", "update-counted", "receipt-given"),
    *("receipt-sent", "round-closed", "updates-folded", "memory-stored", "adapter-stored", "files-published"),
    *("round-published", "updates-dropped"),
)
TRANSACTIONS = ("before-commit", "committed")
"""Passed some times when a server starts, and many times in a round."""
LAST = ("run-finished",)
OF_KEYS = ("tokens-made", "token-used", "key-rotated", "nonces-kept")
"""Points that a run passes once; those of every round, and of every file and transaction; those of enrolled devices."""
KILLS, TLS_KILLS = 200, 30
SEED = 5
OPTIONS: dict[str, object] = {
    "clients_per_round": DEVICES,
    "min_devices": DEVICES,
    "min_updates": DEVICES,
    "deadline": 600.0,
    "poll_min": 0.01,
    "poll_max": 0.02,
    "server_optimizer": "fedadam",
    "keep_updates": 100,
    "max_norm_ratio": 0,
}


@dataclass
class Trial(KillTrial):
    """Over many lives of one server; the last one, without a fault, ends with the run.

    Attributes:
        secure: over TLS, with devices that enroll.
        crashes: lives that ended by a signal of the system's, which no test sent.
    """

    secure: bool = False
    crashes: int = 0

    def run(self) -> "Trial":
        """Plays the run to its end, and looks at what is left."""
        bundle, server = filler_bundle(self.folder / "bundle"), Server(self.folder, self.secure)
        options = RunOptions(rounds=self.rounds, **OPTIONS)
        if self.secure:
            server.initialize()
        over = threading.Event()
        keeper = threading.Thread(target=self._live, args=(server, over))
        keeper.start()
        devices: list[Device] = []
        try:
            persist, make = Persistence(over), enrolled_devices if self.secure else plain_devices
            devices = make(server, bundle.manifest.adapter, DEVICES, persist)
            persist(create_once, server, {**options.model_dump(mode="json"), "bundle": str(bundle.folder)})
            self.play(devices, LIFE_SECONDS * (len(self.faults) + 1))
        finally:
            over.set()
            keeper.join()
            for device in devices:
                device.end()
        self._look(server, bundle, devices, options)
        return self

    def _live(self, server: Server, over: threading.Event) -> None:
        """Starts the server again whenever it died, until the trial is over."""
        for fault in (*self.faults, ""):
            server.start(fault)
            outlive(server, fault, over, LIFE_SECONDS)
            if server.was_killed:
                self.kills[fault.partition(":")[0]] += 1
                continue
            how = "was still alive" if server.runs else "ended by itself"
            if server.crashed:
                self.crashes += 1
                continue
            server.kill()
            if fault or not over.is_set():
                wanted = fault or "the end of the run"
                self.problems.append(f"life {server.lives} {how} before {wanted}; its log ends: {server.last_words}")
            if over.is_set():
                return

    def _look(self, server: Server, bundle: Bundle, devices: Sequence[Device], options: RunOptions) -> None:
        """Asks the state on disk."""
        spec, ids = bundle.manifest.adapter, [device.device_id for device in devices]
        wanted = expected(spec, bundle.path(INITIAL).read_bytes(), ids, options)
        with closing(open_sqlite(server.state)) as state:
            (run,) = state.runs()
            rounds = state.rounds(run.run_id)
            self.check(run.state is RunState.FINISHED, "the run has not finished")
            self.check({r.state for r in rounds} == {RoundState.PUBLISHED}, "a round was not published")
            self.check([r.adapter for r in rounds] == wanted, "a published adapter has other bits")
            parts = state.assignments(run.run_id)
            self.check(len(parts) == self.rounds * len(devices), "a device has no part in some round")
            self.check_receipts(parts, devices, set(FileBlobs(server.state / "updates").names()))
            last = read_adapter(server.state / "published" / run.run_id / "last.safetensors", spec)
            adapters = FileBlobs(server.state / "adapters")
            self.check(encode(spec, last) == adapters.get(run.adapter), "the exported adapter is another one")
        with closing(sqlite3.connect(server.state / DATABASE)) as database:
            self.check(database.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the database is damaged")
        self.check(not list((server.state / "partials").iterdir()), "parts of uploads are left")
        for device in devices:
            self.check(not device.refused, f"device {device.number} was refused: {device.refused}")


def drawn(points: Sequence[str], generator: random.Random, most: int) -> list[str]:
    """A fault for each point: the first to ``most``-th time that it is reached in a life."""
    return [f"{point}:{generator.randint(1, 60 if point in TRANSACTIONS else most)}" for point in points]


def figures(folder: Path) -> Iterator[Figure]:
    """Undisturbed, then killed at least ``KILLS`` times without TLS, then over TLS at the points of keys too."""
    calm = Trial(_new(folder / "calm"), [], rounds=5).run()
    yield Figure(
        1,
        "adapters of a real server that nobody disturbs, against the same rule in memory",
        "the same bits",
        "5 of 5 rounds the same" if not calm.problems else "; ".join(calm.problems),
        met=not calm.problems,
    )
    generator, trials = random.Random(SEED), list[Trial]()
    while sum(trial.kills.total() for trial in trials) < KILLS:
        faults = [*drawn(FIRST, generator, 1), *drawn(IN_ORDER, generator, 2), *drawn(LAST, generator, 1)]
        trials.append(Trial(_new(folder / f"trial-{len(trials)}"), faults, rounds=30).run())
        _say(trials[-1])
    yield from outcome(trials, "without TLS", KILLS)
    faults = [*drawn((*OF_KEYS, *OF_KEYS[1:], *FIRST), generator, 1), *drawn(IN_ORDER, generator, 2)]
    secured = Trial(_new(folder / "secured"), faults, rounds=30, secure=True).run()
    _say(secured)
    yield from outcome([secured], "over TLS, with enrolled devices", TLS_KILLS)


def outcome(trials: Sequence[Trial], how: str, least: int) -> Iterator[Figure]:
    """What trials of one kind amount to."""
    kills: Counter[str] = sum((trial.kills for trial in trials), Counter())
    receipts, rounds = sum(trial.receipts for trial in trials), sum(trial.rounds for trial in trials)
    problems = [problem for trial in trials for problem in trial.problems]
    bad = "; ".join(sorted(set(problems)))
    yield Figure(
        1,
        f"kill -9 {how}",
        f"at least {least} kills over 12 points",
        f"{kills.total()} kills over {len(kills)} points in {len(trials)} runs",
        met=kills.total() >= least and len(kills) >= 12,
    )
    crashes, lives = sum(trial.crashes for trial in trials), sum(len(trial.faults) + 1 for trial in trials)
    yield Figure(
        1,
        f"lives of a server {how} that ended by a crash of a library instead",
        "none; what follows holds for them too",
        f"{crashes} of {lives}",
        met=crashes == 0,
    )
    yield Figure(
        1,
        f"receipts that devices held in the end, after kills {how}",
        "none lost, none counted twice",
        f"all {receipts:,} kept, each once" if not problems else bad,
        met=not problems and receipts == rounds * DEVICES,
    )
    yield Figure(
        1,
        f"published adapters after kills {how}, against an undisturbed run",
        "bit-equal",
        f"{rounds} of {rounds} rounds bit-equal" if not problems else bad,
        met=not problems,
    )


def _say(trial: Trial) -> None:
    print(f"   {trial.folder.name}: {trial.kills.total()} kills, {'; '.join(trial.problems) or 'all well'}", flush=True)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
