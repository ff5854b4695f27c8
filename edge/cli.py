"""ravan-edge: train on private data and share only s_i H_i."""

import json
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

import ravan
from edge.errors import NotEnrolled
from edge.itself import TRY
from edge.owner_commands import HomeOption
from edge.owner_commands import app as owner_app
from edge.runtimes import Runtime, Runtimes
from edge.settings import DEFAULT_HOME, EdgeSettings, PersonalizeSettings, PredictSettings
from ravan.cli.errors import run as run_app
from ravan.cli.logs import configure_logs
from ravan.cli.output import Format, RowFormat
from ravan.cli.settings import command
from ravan.errors import SettingsError
from ravan.rpc.address import read_authority
from ravan.rpc.keys import read_public

if TYPE_CHECKING:
    from edge.bench import Measurement

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(owner_app)


def show_version(wanted: bool) -> None:
    """Prints it and ends."""
    if wanted:
        print(f"ravan-edge {ravan.__version__}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print it.")]


@app.callback()
def begin(version: VersionOption = False) -> None:
    """Keeps what any command logs out of what it prints."""
    configure_logs()


@app.command()
@command(EdgeSettings)
def run(settings: EdgeSettings) -> None:
    """Take part in federated runs until Ctrl-C, one device for each data file."""
    from edge.client import become
    from edge.setting_out import client_settings
    from edge.updating import start_successor

    if settings.update_hours and not settings.insecure:
        start_successor(settings.home, settings.disk_mb, sys.argv[1:])
    become(client_settings(settings))


@app.command(TRY, hidden=True)
@command(EdgeSettings)
def try_settings(settings: EdgeSettings) -> None:
    """Do what run does before anybody is called, so that another version knows that this one can be started."""
    from edge.setting_out import client_settings

    client_settings(settings)


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
    from edge import enrollment
    from edge.home import Home

    names = name or [""]
    if len(names) != len(token):
        raise SettingsError(f"{len(token)} tokens for {len(names)} devices: give a --token for each --name.")
    trusted, expected = (None if ca is None else read_authority(ca)), read_public(operator) if operator else ""
    with closing(Home(home)) as opened:
        for each, its_token in zip(names, token, strict=True):
            identity = enrollment.enroll(opened.identities, each, server, trusted, its_token, expected)
            print(identity.device_id)


@app.command()
def rotate(
    name: Annotated[str, typer.Option(help="Name that the device enrolled with.")] = "",
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Replace this device's key; ravan-edge run does it by itself (--key-days)."""
    from edge import enrollment
    from edge.fleet_client import FleetClient
    from edge.home import Home

    with closing(Home(home)) as opened:
        identity = opened.identities.get(name)
        if identity is None:
            raise NotEnrolled(f"There is no device {name!r} in {home}: enroll it first.")
        with closing(FleetClient(identity.server, identity.device_id, threading.Event(), identity)) as client:
            enrollment.rotate(opened.identities, client)


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
    from edge.bench import measure
    from ravan.bundle import open_bundle
    from ravan.bundle_files import OPTIONAL
    from ravan.runtime.footprint import PRESETS
    from ravan.runtime.session import require_runtime

    opened = open_bundle(bundle, may_lack=OPTIONAL)
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


def bench_table(measured: Sequence["Measurement"]) -> Table:
    """A line for each measurement; the prefix is what a step costs on top in the first epoch."""
    from ravan.runtime.footprint import PRESETS

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


def main() -> None:
    """Entry point of ravan-edge."""
    run_app(app)


if __name__ == "__main__":
    main()
