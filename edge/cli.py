"""ravan-edge: train on private data and share only s_i H_i."""

import json
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Table

from edge.bench import Measurement, measure
from edge.device import Device, DeviceOptions
from edge.enrollment import enroll as enroll_device
from edge.enrollment import rotate as rotate_key
from edge.errors import NotEnrolled, Stopped
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.progress import progress_for
from edge.runtimes import Runtime, Runtimes
from edge.settings import DEFAULT_HOME, EdgeSettings, PersonalizeSettings, PredictSettings
from edge.workshop import Workshop
from ravan.bundle import open_bundle
from ravan.bundle_files import ARTIFACTS
from ravan.cli.errors import run as run_app
from ravan.cli.logs import configure_logs
from ravan.cli.output import Format, RowFormat
from ravan.cli.settings import command
from ravan.errors import RavanError, SettingsError
from ravan.rpc.address import is_local, read_authority
from ravan.rpc.keys import read_public
from ravan.runtime.dataset import find_dataset
from ravan.runtime.footprint import PRESETS
from ravan.runtime.session import require_runtime

log = structlog.get_logger()


CHECK_SECONDS = 0.2
LOCAL_SERVER = "127.0.0.1:7071"
HomeOption = Annotated[Path, typer.Option(help="Folder of the device's identity.", envvar="RAVAN_EDGE_HOME")]
app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def begin() -> None:
    """Keeps what any command logs out of what it prints."""
    configure_logs()


@app.command()
@command(EdgeSettings)
def run(settings: EdgeSettings) -> None:
    """Take part in federated runs until Ctrl-C, one device for each data file."""
    devices = device_options(settings)
    runtimes = Runtimes.find(settings.runtime, settings.ort_training_python)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    home = Home(settings.home)
    workshop = Workshop(settings.session, home.hidden_states, settings.cache_mb << 20, runtimes)
    progress = progress_for(Console(stderr=True))

    with closing(home), closing(workshop), ThreadPoolExecutor(len(devices), "device") as threads:
        clients = [connect(home, settings, options.name, stop) for options in devices]
        running = {
            threads.submit(Device(options, client, home, workshop, progress, stop).run)
            for options, client in zip(devices, clients, strict=True)
        }
        _finish(running, clients, stop)


@app.command()
def enroll(
    server: Annotated[str, typer.Option(help="The server's address, host:port.", envvar="RAVAN_EDGE_SERVER")],
    token: Annotated[list[str], typer.Option(help="A one-time token from the operator.", envvar="RAVAN_ENROLL_TOKEN")],
    ca: Annotated[
        Path | None, typer.Option(help="The operator's ca.pem; public authorities are trusted by default.")
    ] = None,
    operator: Annotated[
        Path | None, typer.Option(help="The operator's operator.pub; what the server says is trusted by default.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Name of a device, with a token for each; not needed for one.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make this device a key and trade a token for a place among the server's devices."""
    names = name or [""]
    if len(names) != len(token):
        raise SettingsError(f"{len(token)} tokens for {len(names)} devices: give a --token for each --name.")
    trusted, expected = (None if ca is None else read_authority(ca)), read_public(operator) if operator else ""
    with closing(Home(home)) as opened:
        for each, its_token in zip(names, token, strict=True):
            identity = enroll_device(opened.identities, each, server, trusted, its_token, expected)
            print(identity.device_id)


@app.command()
def rotate(
    name: Annotated[str, typer.Option(help="Name that the device enrolled with.")] = "",
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Replace this device's key; ravan-edge run does it by itself (--key-days)."""
    with closing(Home(home)) as opened:
        identity = opened.identities.get(name)
        if identity is None:
            raise NotEnrolled(f"There is no device {name!r} in {home}: enroll it first.")
        with closing(FleetClient(identity.server, identity.device_id, threading.Event(), identity)) as client:
            rotate_key(opened.identities, client)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    batch: Annotated[int, typer.Option(min=1, help="Examples of a mini-batch.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens of an example; the bundle's longest at most.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps to take the median of.")] = 10,
    runtime: Annotated[
        Runtime, typer.Option(help="auto for all that are installed and the bundle fits.")
    ] = Runtime.AUTO,
    ort_training_python: Annotated[Path | None, typer.Option(help="Python with onnxruntime-training.")] = None,
    output: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Measure a training step on this device: time, tokens, memory, per runtime and preset."""
    opened = open_bundle(bundle, may_lack=ARTIFACTS)
    manifest = opened.manifest
    require_runtime(manifest)
    length = min(length, manifest.max_length or length)
    usable = Runtimes.find(runtime, ort_training_python).usable(opened)
    measured = [measure(bundle, preset, batch, length, steps, r.ort_python) for r in usable for preset in PRESETS]
    if output is Format.JSON:
        runtimes = [asdict(PRESETS[m.preset].runtime) for m in measured]
        print(json.dumps([asdict(m) | runtime for m, runtime in zip(measured, runtimes, strict=True)], indent=2))
        return
    rows = f"{batch} x {manifest.row_tokens(length)} tokens" if manifest.max_length else f"{batch} examples"
    Console().print(f"{rows}, median of {steps} steps")
    Console().print(bench_table(measured))


@app.command()
@command(PersonalizeSettings)
def personalize(settings: PersonalizeSettings) -> None:
    """Train a global adapter on this device's data alone, and keep the result here if it is not worse."""
    from edge.personal import personalize as run_alone

    with Console(stderr=True).status("starting") as status:
        found = run_alone(settings, status.update)
    print(json.dumps(found.facts(), indent=2) if settings.format is Format.JSON else found.describe())


@app.command()
@command(PredictSettings)
def predict(settings: PredictSettings) -> None:
    """Ask a model with its adapter: labels and their probabilities, or how a text goes on and its perplexity."""
    from edge.predict import predict as answers

    match settings.format:
        case RowFormat.JSON:
            print(json.dumps([answer.row() for answer in answers(settings)], indent=2))
        case RowFormat.JSONL:
            for answer in answers(settings):
                print(json.dumps(answer.row()), flush=True)
        case RowFormat.TEXT:
            for answer in answers(settings):
                print(answer.line(), flush=True)


def bench_table(measured: Sequence[Measurement]) -> Table:
    """A line for each measurement; the prefix is what a step costs on top in the first epoch."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    cached = any(m.prefix_seconds for m in measured)
    headings = ["runtime", "preset", "threads", "at a time", "load s", "step ms", *(["prefix ms"] if cached else [])]
    for heading in [*headings, "tokens/s", "peak MB", "loaded MB"]:
        table.add_column(heading, no_wrap=heading in ("runtime", "preset"))
    for m in measured:
        preset = PRESETS[m.preset]
        figures = [1e3 * m.step_seconds, *([1e3 * m.prefix_seconds] if cached else []), m.tokens_per_second]
        figures += [m.peak_memory_bytes / 1e6, m.loaded_memory_bytes / 1e6]
        shown = [f"{m.load_seconds:.2f}", *(f"{figure:,.0f}" for figure in figures)]
        table.add_row(m.runtime, m.preset, str(preset.runtime.threads or "all"), str(m.micro_batch), *shown)
    return table


def connect(home: Home, settings: EdgeSettings, name: str, stop: threading.Event) -> FleetClient:
    """A device's connection: with the key it enrolled with, or to an insecure server on this machine.

    Raises:
        SettingsError: a server on another machine must not be insecure.
        NotEnrolled: the device has no key.
    """
    if settings.insecure:
        server = settings.server or LOCAL_SERVER
        if not is_local(server):
            raise SettingsError(f"--insecure: {server} is not this machine: leave it out, and enroll this device.")
        return FleetClient(server, home.device_id(name), stop)
    identity = home.identities.get(name)
    if identity is None and len(settings.data) == 1:
        identity = home.identities.get("")
    if identity is None:
        named = f" --name {name}" if len(settings.data) > 1 else ""
        raise NotEnrolled(
            f"Device {name} is not enrolled in {settings.home}: ask the operator for a token and run "
            f"ravan-edge enroll --server HOST:PORT --ca ca.pem --token TOKEN{named}."
        )
    return FleetClient(settings.server or identity.server, identity.device_id, stop, identity)


def device_options(settings: EdgeSettings) -> list[DeviceOptions]:
    """One device for each data file, named by the setting or after the file.

    Raises:
        SettingsError: two devices would share a name, or there is no such dataset.
    """
    make = find_dataset(settings.dataset) if settings.dataset else None
    names = [settings.name or path.stem for path in settings.data]
    if settings.name and len(names) > 1:
        names = [f"{settings.name}-{path.stem}" for path in settings.data]
    if len(set(names)) < len(names):
        raise SettingsError("Two data files have the same name, which names the device: rename one.")
    return [
        DeviceOptions(
            name,
            path,
            settings.heads,
            settings.micro_batch,
            settings.skip_bad,
            settings.until_finished,
            make,
            key_days=settings.key_days,
            held_out=settings.held_out,
            seed=settings.seed,
        )
        for name, path in zip(names, settings.data, strict=True)
    ]


def _finish(running: set[Future[None]], clients: list[FleetClient], stop: threading.Event) -> None:
    """Waits for all devices; one that fails is logged at once, and the first decides the exit code at the end."""
    failures: list[BaseException] = []
    while running:
        ended, running = wait(running, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED)
        if stop.is_set():
            for client in clients:
                client.close()  # so that no call outlasts the wish to stop
        for error in filter(None, (device.exception() for device in ended)):
            if isinstance(error, Stopped):
                continue
            log.error("device ended", reason=str(error), exc_info=None if isinstance(error, RavanError) else error)
            failures.append(error)
    if failures:
        raise failures[0]


def main() -> None:
    """Entry point of ravan-edge."""
    run_app(app)


if __name__ == "__main__":
    main()
