"""The processes of the demo: one server, several edge clients, all ended with it."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ravan.errors import EnvironmentProblem, RavanError
from ravan.processes import last_line


@contextmanager
def running(commands: Sequence[Sequence[str]], logs: Sequence[Path]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts commands with their output in log files; at the end they are asked to stop, then made to."""
    processes = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("wb") as output:
                processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=_environment()))
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def ending_together(clients: Sequence[subprocess.Popen[bytes]], server: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the server when a client fails: a run that waits for every device would wait for ever.

    Raises:
        EnvironmentProblem: a client ended with an error.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(1):
            if any(client.poll() for client in clients):
                server.terminate()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    except RavanError as error:
        if any(client.poll() for client in clients):
            raise EnvironmentProblem("A client process failed: see its log beside the server's.") from error
        raise
    finally:
        over.set()
        looking.join()


def wait_for(path: Path, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    """Waits until a file is there.

    Raises:
        EnvironmentProblem: the process ended before; its last words are in the message.
    """
    until = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            last = last_line(log.read_text("utf-8", "replace"))
            raise EnvironmentProblem(f"{log.stem} did not start ({last}): see {log}.")
        time.sleep(0.05)


def finish(command: Sequence[str]) -> None:
    """Runs a command to its end.

    Raises:
        EnvironmentProblem: it failed; its last words are in the message.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise EnvironmentProblem(f"{' '.join(command[1:4])} failed: {last_line(done.stderr)}")


def has_module(python: Path, module: str) -> bool:
    """Whether a Python environment could import a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], check=False, env=_environment()).returncode == 0


def _environment() -> dict[str, str]:
    """This process's environment without what would let another Python see this one's packages."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
