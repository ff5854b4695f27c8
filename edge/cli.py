"""ravan-edge: train on private data and share only s_i H_i."""

import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing

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
CHECK_SECONDS = 0.2
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

    clients = [FleetClient(settings.server, home.device_id(options.name), stop) for options in devices]
    with closing(home), ThreadPoolExecutor(len(devices), "device") as threads:
        running = {
            threads.submit(Device(options, client, home, workshop, progress, stop).run)
            for options, client in zip(devices, clients, strict=True)
        }
        _finish(running, clients, stop)


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
