"""Our training step beside PyTorch + PEFT LoRA: contenders in processes of their own, taking turns on an idle machine.

Writes every figure to a JSON file, and tables between the markers of a document.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.contenders import ROOT, Contender
from benchmarks.machine import this_machine
from benchmarks.prepare import Scratch
from benchmarks.report import Results, step_section, write_section
from benchmarks.roofline import Roofline, roofline
from benchmarks.rows import TARGET_PRESET, Row, summary, take_turns
from benchmarks.works import WORKS, Work
from ravan.bundle import Precision
from ravan.errors import RavanError, RuntimeProblem
from ravan.files import write_atomically

SECTION = "step"


def main() -> None:
    """Measures and writes; a mistake or a failed process ends it with a sentence."""
    arguments = parse()
    works = [work for work in WORKS if not arguments.only or work.name in arguments.only]
    works = [work.quick() for work in works] if arguments.quick else works
    try:
        with tempfile.TemporaryDirectory() as scratch:
            results = measure(works, arguments.rounds, arguments.steps, Path(scratch))
        write(results, works, arguments.results, arguments.document)
    except RavanError as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if any(results.failed.values()) else 0)


def measure(works: Sequence[Work], rounds: int, steps: int, scratch: Path) -> Results:
    """All works; one that fails is reported and the others are measured all the same."""
    machine = this_machine()
    if not machine.idle:
        say(f"The load average is {machine.load[0]:.2f}: these figures will be worth little.")
    rows: list[Row] = []
    rooflines: list[Roofline] = []
    failed: dict[str, tuple[str, ...]] = {}
    for work in works:
        say(work.title)
        try:
            prepared = Scratch(scratch).prepared(work, steps)
            failed[work.name] = prepared.refused
            rows += summary(work, prepared.contenders, take_turns(prepared.contenders, rounds, say))
            rooflines += int8_roofline(prepared.contenders, rows)
        except RuntimeProblem as problem:
            failed[work.name] = (*failed.get(work.name, ()), str(problem))
        for why in failed[work.name]:
            say(f"  {why}")
    return Results(machine, rounds, steps, tuple(rows), tuple(rooflines), failed)


def int8_roofline(contenders: Sequence[Contender], rows: Sequence[Row]) -> Iterator[Roofline]:
    """Of our int8 step, whose row is among the last ones; none if it could not be exported.

    Raises:
        RuntimeProblem: a process failed.
    """
    for contender, row in zip(contenders, rows[-len(contenders) :], strict=True):
        if contender.precision is Precision.INT8 and contender.job.way == TARGET_PRESET:
            yield roofline(row.work, contender, row.seconds)


def write(results: Results, works: Sequence[Work], file: Path, document: Path) -> None:
    """The figures and the report."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(asdict(results), indent=2) + "\n").encode())
    write_section(document, SECTION, step_section(results, works))
    say(f"{file} and {document} are written")


def say(text: str) -> None:
    """Progress, beside whatever is printed."""
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--rounds", type=positive, default=3, help="turns of every contender (3)")
    parser.add_argument("--steps", type=positive, default=5, help="steps measured in a turn, but for rounds (5)")
    parser.add_argument(
        "--only", action="append", choices=[work.name for work in WORKS], help="only this work; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="tiny batches: whether everything runs, no figures")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "step.json")
    parser.add_argument("--document", type=Path, default=ROOT / "BENCHMARKS.md")
    return parser.parse_args()


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    main()
