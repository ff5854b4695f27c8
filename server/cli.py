"""ravan-server: host federated runs, and look after them."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.live import Live

from protos.ravan.v1 import control_pb2 as pb
from protos.ravan.v1.releases_pb2 import Release
from ravan.cli.errors import run
from ravan.cli.logs import Repeats, configure_logs
from ravan.cli.output import Format
from ravan.cli.settings import command
from server import client
from server.control_address import control_address
from server.place import DEFAULT_STATE, Place
from server.settings import CreateSettings, ServeSettings
from server.tables import device_table, refused_line, run_table, size
from server.tls import Tls

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
devices_app = typer.Typer(help="Say which devices may take part.", no_args_is_help=True)
app.add_typer(devices_app, name="devices")
console = Console(highlight=False)

StateOption = Annotated[
    str, typer.Option(help="The server's state, or its folder beside a database.", envvar="RAVAN_SERVER_STATE")
]
ControlOption = Annotated[str, typer.Option(help="The server's control address.", envvar="RAVAN_SERVER_CONTROL")]
RunOption = Annotated[str, typer.Option("--run", help="A run's id; the newest by default.")]


FormatOption = Annotated[Format, typer.Option("--format", help="text or json.")]


@app.command()
def init(
    host: Annotated[list[str] | None, typer.Option(help="DNS name or IP by which devices reach the server.")] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Make a new server certificate by the same authority.")
    ] = False,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Make a certificate authority, the server's certificate and the operator's key."""
    from server.certificates import initialize

    hosts, folder = host or [socket.getfqdn()], Place.of(state).folder
    tls = Tls.of(folder)
    initialize(tls, hosts, renew=renew)
    console.print(f"{tls.folder}: certificate for {', '.join(hosts)} and for this machine itself", soft_wrap=True)
    if renew:
        return
    name = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    console.print(f"every device needs {tls.ca}; keep the .key files to yourself. Next:", soft_wrap=True)
    for step in (
        f"ravan-server serve --state {state} --listen 0.0.0.0:7071",
        f"ravan-server devices token --state {state}",
        f"ravan-edge enroll --server {name}:7071 --ca ca.pem --token TOKEN   (on the device)",
    ):
        console.print(f"  {step}", soft_wrap=True, markup=False)


@app.command()
@command(ServeSettings)
def serve(settings: ServeSettings) -> None:
    """Serve devices until Ctrl-C; a run goes on where it was at the next start."""
    from server.serving import serve as serve_until_stopped

    configure_logs(Repeats())
    asyncio.run(serve_until_stopped(settings))


@app.command()
@command(CreateSettings)
def create(settings: CreateSettings) -> None:
    """Start a run on a running server."""
    given = settings.model_dump(mode="json", exclude_none=True, exclude={"state", "control"})
    given |= {name: str(Path(given[name]).resolve()) for name in ("bundle", "evaluation") if name in given}
    _print_run(client.create_run(control_address(Place.of(settings.state).folder, settings.control), given))


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Sign a bundle with the operator's key; create does it by itself where the key and the bundle both are."""
    from server.signatures import sign_folder

    console.print(str(sign_folder(bundle, Tls.of(Place.of(state).folder).operator())), soft_wrap=True, markup=False)


@app.command()
def release(
    archive: Annotated[Path, typer.Argument(help="Archive of the client, as make edge-binary writes it.")],
    version: Annotated[str, typer.Option(help="Its version, such as 0.2.0; what its name says by default.")] = "",
    machine: Annotated[str, typer.Option(help="x86_64 or aarch64; what its name says by default.")] = "",
    state: StateOption = DEFAULT_STATE,
    control: ControlOption = "",
) -> None:
    """Sign a version of the client with the operator's key, and offer it to devices of its kind."""
    from server.signatures import sign_release

    address = control_address(Place.of(state).folder, control)
    signed = sign_release(archive, address.tls.operator(), version, machine)
    client.set_release(address, archive, signed)
    _print_releases([signed])


@app.command()
def releases(
    withdraw: Annotated[str, typer.Option(help="Offer devices of this kind, such as x86_64, none any more.")] = "",
    state: StateOption = DEFAULT_STATE,
    control: ControlOption = "",
    output: FormatOption = Format.TEXT,
) -> None:
    """List the versions of the client that devices are offered, or withdraw one; who has it keeps it."""
    address = control_address(Place.of(state).folder, control)
    if withdraw:
        client.withdraw_release(address, withdraw)
    found = client.releases(address)
    if output is Format.JSON:
        print(json.dumps({"releases": _plain(found)}, indent=2))
        return
    _print_releases(found)


@app.command()
def status(state: StateOption = DEFAULT_STATE, control: ControlOption = "", output: FormatOption = Format.TEXT) -> None:
    """Show runs, rounds, devices, and how often which calls were refused."""
    runs, devices, refused = client.overview(control_address(Place.of(state).folder, control), Place.of(state))
    if output is Format.JSON:
        told = {"serving": refused is not None, "runs": _plain(runs), "devices": _plain(devices)}
        print(json.dumps({**told, "refused": refused or {}}, indent=2))
        return
    if refused is None:
        console.print("No server is running on this state; this is where it stopped.")
    for shown in runs:
        console.print(run_table(shown))
    console.print(device_table(devices))
    if refused is not None:
        console.print(refused_line(refused))


@app.command()
def watch(
    run_id: RunOption = "",
    state: StateOption = DEFAULT_STATE,
    control: ControlOption = "",
    output: FormatOption = Format.TEXT,
) -> None:
    """Show a run as it goes, until it ends; as JSON, one line per change."""
    messages = client.watch(control_address(Place.of(state).folder, control), run_id)
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
    _print_run(client.set_state(control_address(Place.of(state).folder, control), run_id, pb.RUN_STATE_PAUSED))


@app.command()
def resume(run_id: RunOption = "", state: StateOption = DEFAULT_STATE, control: ControlOption = "") -> None:
    """Go on with a paused run."""
    _print_run(client.set_state(control_address(Place.of(state).folder, control), run_id, pb.RUN_STATE_ACTIVE))


@app.command()
def stop(run_id: RunOption = "", state: StateOption = DEFAULT_STATE, control: ControlOption = "") -> None:
    """End a run for good; its adapters stay."""
    _print_run(client.set_state(control_address(Place.of(state).folder, control), run_id, pb.RUN_STATE_STOPPED))


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

    write_atomically(
        out, client.export_adapter(control_address(Place.of(state).folder, control), run_id, best=not last)
    )
    console.print(str(out))


@devices_app.command("list")
def list_devices(
    state: StateOption = DEFAULT_STATE, control: ControlOption = "", output: FormatOption = Format.TEXT
) -> None:
    """Show devices, and how often which calls were refused."""
    known = client.devices(control_address(Place.of(state).folder, control))
    if output is Format.JSON:
        print(json.dumps({"devices": _plain(list(known.devices)), "refused": dict(known.refused)}, indent=2))
        return
    console.print(device_table(list(known.devices)))
    console.print(refused_line(known.refused))


@devices_app.command()
def token(
    count: Annotated[int, typer.Option(min=1, help="Tokens to make, one for each device.")] = 1,
    hours: Annotated[float, typer.Option(min=0, help="Hours for which they are valid.")] = 24.0,
    state: StateOption = DEFAULT_STATE,
    control: ControlOption = "",
) -> None:
    """Print one-time tokens for ravan-edge enroll, one a line."""
    for made in client.create_tokens(control_address(Place.of(state).folder, control), count, hours * 3600).tokens:
        print(made)


@devices_app.command()
def revoke(
    device: Annotated[str, typer.Argument(help="The device's id, or its beginning.")],
    state: StateOption = DEFAULT_STATE,
    control: ControlOption = "",
) -> None:
    """Let a device in no more, from its next call on."""
    revoked = client.revoke_device(control_address(Place.of(state).folder, control), device)
    console.print(f"revoked {revoked.device_id} {revoked.name}", markup=False, soft_wrap=True)


def _print_run(shown: pb.Run) -> None:
    console.print(run_table(shown))


def _print_releases(found: list[Release]) -> None:
    for each in found:
        said = f"{each.version} {each.machine} {size(each.size)} sha256 {each.sha256}"
        console.print(said, markup=False, soft_wrap=True)
    if not found:
        console.print("devices are offered no release")


def _plain(messages: list[pb.Run] | list[pb.Device] | list[Release]) -> list[dict[str, object]]:
    return [
        MessageToDict(m, preserving_proto_field_name=True, always_print_fields_with_no_presence=True) for m in messages
    ]


def main() -> None:
    """Entry point of ravan-server."""
    run(app)


if __name__ == "__main__":
    main()
