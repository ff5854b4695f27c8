"""Promise 2: an update counts once, whatever is sent how often; what a broken line carried is not sent again.

A storm of uploads (``storm.py``) against a server process: copies of an update, rivals by the same device, and
uploads that break off, all at once, over two connections a device. Then transfers of 4.6 MB over a line that is cut
after every so many bytes, with the client that devices use; what went
over the line is counted.
"""

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.reliability.bundle import LARGE, SMALL, filler_bundle
from benchmarks.reliability.devices import CAPABILITIES, QUICK, Reference, draw, header_of
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.hosts import Server
from benchmarks.reliability.lines import SPEED, Line, Way
from benchmarks.reliability.storm import RECEIPT, Storm
from edge.fleet_client import FleetClient
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import INITIAL, Bundle
from ravan.rpc.transfer import CHUNK
from ravan.spec import AdapterSpec
from ravan.update import decode, encode
from server import client
from server.records import AssignmentState
from server.settings import RunOptions
from server.sql_state import open_sqlite

DEVICES, ROUNDS, EACH = 8, 10, 126
UPLOADS = 10_000
EVERY = 1 << 20  # bytes after which a line is cut
OVERHEAD = 1.02
"""Of gRPC and TCP, as a factor on the bytes of a transfer."""


def figures(folder: Path) -> Iterator[Figure]:
    """The storm, then the transfers."""
    yield from storm(folder / "storm", ROUNDS, EACH)
    yield from transfers(folder / "transfers", LARGE, EVERY)


def storm(folder: Path, rounds: int, each: int) -> Iterator[Figure]:
    """Uploads by devices that send far more than once."""
    options = {"rounds": rounds, "clients_per_round": DEVICES, "min_devices": DEVICES, "keep_updates": 100}
    ids = [f"{number + 1:032x}" for number in range(DEVICES)]
    with hosting(folder, SMALL, options) as (server, bundle):
        reference = Reference(SMALL, bundle.path(INITIAL).read_bytes(), RunOptions(**options))
        blown = Storm(server.address, ids, reference, each)
        asyncio.run(blown.blow(rounds))
        until_finished(server)
        problems = [*blown.problems, *_doubles(server, blown, rounds)]
    codes = Counter(upload.code or "receipt" for upload in blown.uploads)
    yield Figure(
        2,
        f"copies, rivals and broken uploads by {DEVICES} devices with two connections each, {rounds} rounds",
        f"at least {UPLOADS:,}; one receipt a device and round, for one body",
        f"{len(blown.uploads):,}: {', '.join(f'{count:,} {code}' for code, count in codes.most_common())}"
        if not blown.problems
        else "; ".join(sorted(set(blown.problems))),
        met=not blown.problems and len(blown.uploads) >= UPLOADS,
    )
    yield Figure(
        2,
        "what was counted and published after them",
        "each of those updates once: the bits of a run that got each once",
        f"{rounds * DEVICES} updates, {rounds} of {rounds} adapters bit-equal" if not problems else "; ".join(problems),
        met=not problems,
    )


def _doubles(server: Server, blown: Storm, rounds: int) -> Iterator[str]:
    """What the state on disk has that it must not have."""
    taken = {(u.receipt, u.sha256) for u in blown.uploads if u.code == RECEIPT}
    with closing(open_sqlite(server.state)) as state:
        (run,) = state.runs()
        parts = state.assignments(run.run_id)
        if {(p.receipt, p.sha256) for p in parts if p.state is AssignmentState.RECEIVED} != taken:
            yield "parts and receipts differ"
        if len(parts) != rounds * DEVICES:
            yield f"{len(parts)} parts"
        if [r.adapter for r in state.rounds(run.run_id)] != blown.adapters:
            yield "a published adapter has other bits"


def transfers(folder: Path, spec: AdapterSpec, every: int) -> Iterator[Figure]:
    """Both directions over a line that is cut again and again."""
    with hosting(folder, spec, {"rounds": 1, "clients_per_round": 1}) as (server, bundle), Line(server.port) as line:
        stop = threading.Event()
        device = FleetClient(line.address, f"{1:032x}", stop, patience=QUICK)
        task = until_task(device)
        size = (bundle.folder / INITIAL).stat().st_size
        received = bytearray()
        manifest = bundle.manifest.bundle_id

        def fetch() -> None:
            device.fetch_file(manifest, INITIAL, received.extend, 0, size)

        yield _cut("a file of the bundle", line.down, every, size, fetch)
        base = b""

        def adapter() -> None:
            nonlocal base
            base = device.fetch_adapter(task.binding, task.adapter_size)

        yield _cut("the round's adapter", line.down, every, size, adapter)
        data = encode(spec, draw(spec, decode(spec, base), 0, 1))
        header = header_of(device.device_id, task.binding, data)
        sha256 = header.sha256

        def upload() -> None:
            device.upload(header, data)

        yield _cut("an update", line.up, every, len(data), upload)
        until_finished(server)
        device.close()
        whole = hashlib.sha256(received).hexdigest() == hashlib.sha256(base).hexdigest() == task.binding.base_adapter
        with closing(open_sqlite(server.state)) as state:
            (part,) = state.assignments(task.binding.run_id)
        same = whole and part.sha256 == sha256 and (server.state / "updates" / sha256[:2] / sha256).read_bytes() == data
        yield Figure(2, "what came through", "the same bytes", "all the same" if same else "other bytes", met=same)


def _cut(what: str, way: Way, every: int, size: int, transfer: Callable[[], None]) -> Figure:
    """One transfer over a line that is cut after every so many bytes."""
    carried, cuts, way.limit = way.carried, way.cuts, every
    transfer()
    way.limit = 0
    carried, cuts = way.carried - carried, way.cuts - cuts
    again = max(carried - OVERHEAD * size, 0) / max(cuts, 1)
    return Figure(
        2,
        f"{what} of {size / 1e6:.1f} MB, {SPEED / 1e6:.0f} MB/s, over a line that is cut after every {every >> 10} KiB",
        f"goes on there: at most the {CHUNK >> 10} KiB on the way are sent again",
        f"{cuts} cuts, {carried / 1e6:.2f} MB over the line, {again / 1024:.0f} KiB a cut again",
        met=cuts > 0 and again <= CHUNK,
    )


@contextmanager
def hosting(folder: Path, spec: AdapterSpec, options: Mapping[str, object]) -> Iterator[tuple[Server, Bundle]]:
    """A server without TLS and a run on it."""
    folder.mkdir()
    bundle, server = filler_bundle(folder / "bundle", spec), Server(folder)
    with ExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        server.wait()
        quick = {"poll_min": 0.01, "poll_max": 0.02, "max_norm_ratio": 0}
        client.create_run(server.control, {**quick, **options, "bundle": str(bundle.folder)})
        yield server, bundle


def until_task(device: FleetClient) -> pb.Task:
    """Checks in until there is a task."""
    while True:
        answer = device.check_in("one", CAPABILITIES)
        if answer.HasField("task"):
            return answer.task
        threading.Event().wait(0.02)


def until_finished(server: Server) -> None:
    """Waits for the end of the run."""
    for _ in client.watch(server.control, ""):
        pass
