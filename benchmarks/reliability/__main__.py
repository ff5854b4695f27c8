"""Tries the promises of server and devices and writes RELIABILITY.md.

usage: python -m benchmarks.reliability [--only MODULE ...], in the repository; make reliability runs all of it.

What is not tried again keeps its earlier figures. Exits with 1 if a figure that was tried is not met.
"""

import argparse
import logging
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import structlog

from benchmarks.machine import this_machine
from benchmarks.reliability.figures import Figure, Measurement, load, save
from benchmarks.reliability.page import page
from benchmarks.reliability.promises import PROMISES
from ravan.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks/results/reliability.json"
PAGE = ROOT / "RELIABILITY.md"
MODULES = tuple(module for promise in PROMISES for module in promise.modules)


def main() -> int:
    """Tries what is wanted; results are written after every module."""
    wanted = parse().only or MODULES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every server is ended
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # devices call in vain
    measurements = load(RESULTS)
    failed = 0
    for module in wanted:
        measurements[module] = measure(module)
        failed += sum(not figure.met for figure in measurements[module].figures)
        kept = {name: measurements[name] for name in MODULES if name in measurements}
        save(RESULTS, list(kept.values()))
        write_atomically(PAGE, page(kept).encode())
    return int(failed > 0)


def measure(module: str) -> Measurement:
    """One module's figures, said as they come."""
    machine, began, figures = this_machine(), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="ravan-reliability-") as folder:
        for figure in import_module(f"benchmarks.reliability.{module}").figures(Path(folder)):
            figures.append(figure)
            say(figure)
    where = f"{machine.cpu}, {machine.cores} cores, Python {machine.python}"
    date = datetime.now(UTC).date().isoformat()
    return Measurement(module, date, round(time.monotonic() - began, 1), where, tuple(figures))


def say(figure: Figure) -> None:
    """A figure on the terminal."""
    verdict = "met" if figure.met else "NOT MET"
    print(f"{figure.promise}. {figure.what}: {figure.measured} ({figure.target}: {verdict})", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODULES, metavar="MODULE", help=", ".join(MODULES))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
