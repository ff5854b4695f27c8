"""Promise 6: three servers on one database, killed over and over at named points and at any moment.

Devices call any server. Each server is started again whenever it died, and the run goes on all the while; then it is
asked of the database what ``crash.py`` asks of a folder.
"""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.reliability.bundle import filler_bundle
from benchmarks.reliability.crash import IN_ORDER, OPTIONS, drawn
from benchmarks.reliability.database import running_postgres
from benchmarks.reliability.devices import QUICK, Device, expected
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.trial import KillTrial, Persistence, create_once
from edge.fleet_client import FleetClient
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import INITIAL, Bundle
from server.postgres import open_engine
from server.records import RoundState, RunState
from server.settings import RunOptions
from server.sql_blobs import SqlBlobs
from server.sql_state import SqlState

SERVERS, DEVICES, ROUNDS, KILLS = 3, 3, 200, 60
LIFE_SECONDS = 4.0
"""From its first answer on, after which a server that did not reach its point is killed wherever it is."""
MOST_SECONDS = 900.0
SEED = 6


class AnyServer:
    """What a device needs of ``FleetClient``: every call goes to one of several servers, drawn anew."""

    def __init__(self, clients: Sequence[FleetClient], seed: int) -> None:
        self._clients = clients
        self._draw = random.Random(seed)
        self.device_id = clients[0].device_id

    def _any(self) -> FleetClient:
        return self._draw.choice(self._clients)

    def check_in(self, name: str, capabilities: pb.Capabilities) -> pb.CheckInResponse:
        """See ``FleetClient``."""
        return self._any().check_in(name, capabilities)

    def fetch_adapter(self, binding: pb.Binding, size: int) -> bytes:
        """See ``FleetClient``."""
        return self._any().fetch_adapter(binding, size)

    def upload(self, header: pb.UploadHeader, data: bytes) -> str:
        """See ``FleetClient``."""
        return self._any().upload(header, data)

    def close(self) -> None:
        """See ``FleetClient``."""
        for each in self._clients:
            each.close()


@dataclass
class Trial(KillTrial):
    """Over many lives of several servers; a fault ends whichever server's.

    Attributes:
        database: URL of an empty one.
        leaders: terms that began.
    """

    database: str = ""
    leaders: int = 0

    def run(self) -> "Trial":
        """Plays the run to its end, and looks at what is left."""
        bundle = filler_bundle(self.folder / "bundle")
        servers = [Server(self.folder / f"server-{n}", database=self.database) for n in range(SERVERS)]
        options = RunOptions(rounds=self.rounds, **{**OPTIONS, "keep_updates": self.rounds})
        over, faults = threading.Event(), iter(self.faults)
        keepers = [threading.Thread(target=self._live, args=(server, faults, over)) for server in servers]
        for server, keeper in zip(servers, keepers, strict=True):
            server.folder.mkdir()
            keeper.start()
        devices = [_device(servers, bundle, number) for number in range(DEVICES)]
        try:
            settings = {**options.model_dump(mode="json"), "bundle": str(bundle.folder)}
            Persistence(over)(create_once, servers[0], settings)
            self.play(devices, MOST_SECONDS)
        finally:
            over.set()
            for keeper in keepers:
                keeper.join()
            for device in devices:
                device.end()
        self.leaders = sum(server.log.read_text("utf-8").count('"leading"') for server in servers)
        self._look(bundle, devices, options)
        return self

    def _live(self, server: Server, faults: Iterator[str], over: threading.Event) -> None:
        """Starts a server again whenever it died, until the trial is over; faults are shared among the servers."""
        while not over.is_set():
            self.live(server, next(faults, ""), over, LIFE_SECONDS)

    def _look(self, bundle: Bundle, devices: Sequence[Device], options: RunOptions) -> None:
        """Asks the database."""
        spec, ids = bundle.manifest.adapter, [device.device_id for device in devices]
        wanted = expected(spec, bundle.path(INITIAL).read_bytes(), ids, options)
        engine = open_engine(self.database)
        with closing(SqlState(engine)) as state:
            (run,) = state.runs()
            rounds = state.rounds(run.run_id)
            self.check(run.state is RunState.FINISHED, "the run has not finished")
            self.check({r.state for r in rounds} == {RoundState.PUBLISHED}, "a round was not published")
            self.check([r.adapter for r in rounds] == wanted, "a published adapter has other bits")
            parts = state.assignments(run.run_id)
            self.check(len(parts) == self.rounds * len(devices), "a device has no part in some round")
            self.check_receipts(parts, devices, set(SqlBlobs(engine, "updates").names()))
        for device in devices:
            self.check(not device.refused, f"device {device.number} was refused: {device.refused}")


def figures(folder: Path) -> Iterator[Figure]:
    """One run of ``ROUNDS`` rounds, with ``KILLS`` kills."""
    generator = random.Random(SEED)
    faults = [fault for _ in range(KILLS) for fault in drawn([generator.choice(IN_ORDER)], generator, 2)]
    with running_postgres() as database:
        trial = Trial(folder, faults, ROUNDS, database=database).run()
    yield from outcome(trial, KILLS)


def outcome(trial: Trial, least: int) -> Iterator[Figure]:
    """What a trial amounts to."""
    problems, killed, points = "; ".join(sorted(set(trial.problems))), trial.kills.total(), len(trial.kills)
    yield Figure(
        6,
        f"kill -9 of {SERVERS} servers on one PostgreSQL, while devices call any of them",
        f"at least {least} kills",
        f"{killed} kills over {points} points, {trial.leaders} terms of a leader",
        met=killed >= least,
    )
    yield Figure(
        6,
        "receipts of any server that devices held in the end",
        "none lost, none counted twice",
        problems or f"all {trial.receipts:,} kept, each once",
        met=not problems and trial.receipts == trial.rounds * DEVICES,
    )
    yield Figure(
        6,
        "published adapters, against the same rule in memory",
        "bit-equal",
        problems or f"{trial.rounds} of {trial.rounds} rounds bit-equal",
        met=not problems,
    )


def _device(servers: Sequence[Server], bundle: Bundle, number: int) -> Device:
    stop = threading.Event()
    clients = [FleetClient(server.address, f"{number + 1:032x}", stop, patience=QUICK) for server in servers]
    anyone = cast(FleetClient, AnyServer(clients, number))
    return Device(number, bundle.manifest.adapter, anyone, stop)
