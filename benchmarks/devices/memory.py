"""How much memory the binary holds: waiting for a task, in a local run, and after it."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.devices.figures import Memory
from benchmarks.reliability.hosts import Server
from demo.processes import finish
from ravan.errors import EnvironmentProblem
from server import client

SETTLED, BETWEEN = 15.0, 0.05  # seconds
RUN = {"rounds": 1, "clients_per_round": 1, "min_devices": 1, "local_steps": 8, "batch_size": 16}
TOKEN_SECONDS = 600.0


def memory(program: Path, bundle: Path, data: Path, scratch: Path) -> Iterator[Memory]:
    """In every state, in the order in which a device comes through them."""
    server = Server(scratch, secure=True)
    server.initialize()
    server.start()
    try:
        server.wait()
        with device(program, server, data, scratch) as process:
            yield settled(process, "waiting for its first task")
            yield peak(process, server, bundle)
            yield settled(process, "waiting for the next")
    finally:
        server.stop()


@contextmanager
def device(program: Path, server: Server, data: Path, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that is enrolled and takes part, ended with the block."""
    home = ["--home", str(scratch / "home")]
    token = client.create_tokens(server.control, 1, TOKEN_SECONDS).tokens[0]
    finish([str(program), "enroll", *home, "--server", server.address, "--ca", str(server.ca), "--token", token])
    with (scratch / "device.log").open("wb") as log:
        command = [str(program), "run", *home, "--data", str(data)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def settled(process: subprocess.Popen[bytes], state: str) -> Memory:
    """What is held after a while without work."""
    time.sleep(SETTLED)
    return now(process, state)


def peak(process: subprocess.Popen[bytes], server: Server, bundle: Path) -> Memory:
    """The most that is held together in a local run of the bundle.

    Raises:
        EnvironmentProblem: the device ended.
    """
    client.create_run(server.control, {**RUN, "bundle": str(bundle)})
    samples = []
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(lambda: list(client.watch(server.control, "")))
        while not watching.done():
            samples.append(now(process, f"in a local run of {RUN['local_steps']} steps, the most"))
            time.sleep(BETWEEN)
            if process.poll() is not None:
                server.stop()  # which ends the watching
                raise EnvironmentProblem("The device ended: see its log.")
    return max(samples, key=lambda each: each.client + each.workers)


def now(process: subprocess.Popen[bytes], state: str) -> Memory:
    """What a process and those that it started hold."""
    own, *others = [held(pid) for pid in family(process.pid)]
    return Memory(state, own[0], sum(each[0] for each in others), own[1] + sum(each[1] for each in others))


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for each in found:
        with suppress(OSError):  # it, or its thread, has ended
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text("ascii").split())
    return found


def held(pid: int) -> tuple[int, int]:
    """Resident bytes, and those of them that are no mapped file; none of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    resident, anonymous = (int(fields.get(name, "0 kB").split()[0]) for name in ("VmRSS", "RssAnon"))
    return resident * 1024, anonymous * 1024
