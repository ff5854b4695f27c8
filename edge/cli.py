"""ravan-edge: train on private data and share only s_i H_i."""

import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import structlog
import typer
from rich.console import Console

from edge.device import Device, DeviceOptions
from edge.errors import Stopped
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.progress import progress_for
from edge.settings import EdgeSettings
from edge.workshop import Workshop
from ravan.cli.errors import run as run_app
from ravan.cli.logs import configure_logs
from ravan.cli.settings import command
from ravan.errors import RavanError, SettingsError
from ravan.runtime.session import RuntimeOptions

log = structlog.get_logger()
app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _commands() -> None:
    """ravan-edge: train on private data and share only s_i H_i."""


@app.command()
@command(EdgeSettings)
def run(settings: EdgeSettings) -> None:
    """Take part in federated runs until Ctrl-C, one device for each data file."""
    configure_logs()
    devices = device_options(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    home = Home(settings.home)
    workshop = Workshop(RuntimeOptions(settings.threads, settings.spinning))
    progress = progress_for(Console(stderr=True))

    def take_part(options: DeviceOptions) -> None:
        client = FleetClient(settings.server, home.device_id(options.name), stop)
        try:
            Device(options, client, home, workshop, progress, stop).run()
        finally:
            client.close()

    with ThreadPoolExecutor(len(devices), "device") as threads:
        _finish([threads.submit(take_part, options) for options in devices])


def device_options(settings: EdgeSettings) -> list[DeviceOptions]:
    """One device for each data file, named by the setting or after the file.

    Raises:
        SettingsError: two devices would share a name.
    """
    names = [settings.name or path.stem for path in settings.data]
    if settings.name and len(names) > 1:
        names = [f"{settings.name}-{path.stem}" for path in settings.data]
    if len(set(names)) < len(names):
        raise SettingsError("Two data files have the same name, which names the device: rename one.")
    return [
        DeviceOptions(name, path, settings.heads, settings.skip_bad, settings.until_finished)
        for name, path in zip(names, settings.data, strict=True)
    ]


def _finish(devices: list[Future[None]]) -> None:
    """Waits for all devices; one that fails is logged at once and decides the exit code at the end."""
    failures: list[RavanError] = []
    for device in as_completed(devices):
        try:
            device.result()
        except Stopped:
            pass
        except RavanError as error:
            log.error("device ended", code=error.code, reason=str(error))
            failures.append(error)
    if failures:
        raise failures[0]


def main() -> None:
    """Entry point of ravan-edge."""
    run_app(app)


if __name__ == "__main__":
    main()
