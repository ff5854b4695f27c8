"""ravan-server: host federated runs, and look after them."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.live import Live

from protos.ravan.v1 import control_pb2 as pb
from ravan.cli.errors import run
from ravan.cli.logs import configure_logs
from ravan.cli.output import Format
from ravan.cli.settings import command
from server import client
from server.serving import control_address
from server.serving import serve as serve_until_stopped
from server.settings import DEFAULT_STATE, CreateSettings, ServeSettings
from server.tables import device_table, run_table

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(highlight=False)

StateOption = Annotated[Path, typer.Option(help="The server's state folder.", envvar="RAVAN_SERVER_STATE")]
ControlOption = Annotated[str, typer.Option(help="The server's control address.", envvar="RAVAN_SERVER_CONTROL")]
RunOption = Annotated[str, typer.Option("--run", help="A run's id; the newest by default.")]


FormatOption = Annotated[Format, typer.Option("--format", help="text or json.")]


@app.command()
@command(ServeSettings)
def serve(settings: ServeSettings) -> None:
    """Serve devices until Ctrl-C; a run goes on where it was at the next start."""
    configure_logs()
    asyncio.run(serve_until_stopped(settings))


@app.command()
@command(CreateSettings)
def create(settings: CreateSettings) -> None:
    """Start a run on a running server."""
    given = settings.model_dump(mode="json", exclude_none=True, exclude={"state", "control"})
    given |= {name: str(Path(given[name]).resolve()) for name in ("bundle", "evaluation") if name in given}
    _print_run(client.create_run(control_address(settings.state, settings.control), given))


@app.command()
def status(state: StateOption = DEFAULT_STATE, control: ControlOption = "", output: FormatOption = Format.TEXT) -> None:
    """Show runs, rounds and devices."""
    runs, devices, live = client.overview(control_address(state, control), state)
    if output is Format.JSON:
        print(json.dumps({"serving": live, "runs": _plain(runs), "devices": _plain(devices)}, indent=2))
        return
    if not live:
        console.print("No server is running on this state; this is where it stopped.")
    for shown in runs:
        console.print(run_table(shown))
    console.print(device_table(devices))


@app.command()
def watch(
    run_id: RunOption = "",
    state: StateOption = DEFAULT_STATE,
    control: ControlOption = "",
    output: FormatOption = Format.TEXT,
) -> None:
    """Show a run as it goes, until it ends; as JSON, one line per change."""
    messages = client.watch(control_address(state, control), run_id)
    if output is Format.JSON:
        for message in messages:
            print(json.dumps(_plain([message])[0]), flush=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for message in messages:
            live.update(run_table(message), refresh=True)


@app.command()
def pause(run_id: RunOption = "", state: StateOption = DEFAULT_STATE, control: ControlOption = "") -> None:
    """Let no new step begin until the run is resumed."""
    _print_run(client.set_state(control_address(state, control), run_id, pb.RUN_STATE_PAUSED))


@app.command()
def resume(run_id: RunOption = "", state: StateOption = DEFAULT_STATE, control: ControlOption = "") -> None:
    """Go on with a paused run."""
    _print_run(client.set_state(control_address(state, control), run_id, pb.RUN_STATE_ACTIVE))


@app.command()
def stop(run_id: RunOption = "", state: StateOption = DEFAULT_STATE, control: ControlOption = "") -> None:
    """End a run for good; its adapters stay."""
    _print_run(client.set_state(control_address(state, control), run_id, pb.RUN_STATE_STOPPED))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write (safetensors).")],
    run_id: RunOption = "",
    last: Annotated[bool, typer.Option("--last", help="The last adapter instead of the best.")] = False,
    state: StateOption = DEFAULT_STATE,
    control: ControlOption = "",
) -> None:
    """Save the run's best (or last) adapter, for ravan-export merge."""
    from ravan.files import write_atomically

    write_atomically(out, client.export_adapter(control_address(state, control), run_id, best=not last))
    console.print(str(out))


def _print_run(shown: pb.Run) -> None:
    console.print(run_table(shown))


def _plain(messages: list[pb.Run] | list[pb.Device]) -> list[dict[str, object]]:
    return [
        MessageToDict(m, preserving_proto_field_name=True, always_print_fields_with_no_presence=True) for m in messages
    ]


def main() -> None:
    """Entry point of ravan-server."""
    run(app)


if __name__ == "__main__":
    main()
