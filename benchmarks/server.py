"""Our server's rounds beside Flower's, and beside the time that moving and adding up the same bytes takes.

usage: python -m benchmarks.server [--sizes ...] [--clients ...] [--contenders ...] [--turns N] [--rounds N]

Clients only add a constant to what they are sent. Contenders take turns; the figures of those that were measured
replace their former ones in benchmarks/results/server.json and in BENCHMARKS.md, the others stay.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import this_machine
from benchmarks.reliability.bundle import filler_bundle
from benchmarks.report import write_section
from benchmarks.serving.floor import Floor
from benchmarks.serving.flower import Flower
from benchmarks.serving.ours import Ours
from benchmarks.serving.section import FLOOR, FLOWER, OURS, PLAIN, Row, server_section
from benchmarks.serving.turns import RANKS, Contender, Turn, Work, spec_of
from ravan.errors import RavanError
from ravan.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/server.json"
CLIENTS = (4, 8, 16, 32)
TURNS, ROUNDS, FLOWER_ROUNDS = 3, 20, 3
COUNTED = 2, 4  # rounds of the turns whose bytes are counted: what each more round adds is a round's


def main() -> None:
    """Measures and writes; a mistake or a failed process ends it with a sentence."""
    arguments = parse()
    try:
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as scratch:
                contenders = contenders_of(size, arguments.contenders, arguments.flower, Path(scratch))
                for clients in arguments.clients:
                    rows = measure(size, clients, contenders, arguments, Path(scratch))
                    write(rows, arguments.results, arguments.document)
    except RavanError as error:
        sys.exit(f"error: {error}")


def contenders_of(size: str, names: Sequence[str], flower: Path, scratch: Path) -> dict[str, Contender]:
    """Those wanted, in the order of their turns."""
    spec = spec_of(size)
    bundle = filler_bundle(scratch / "bundle", spec)
    made: dict[str, Contender] = {
        FLOOR: Floor(spec.H_size),
        OURS: Ours(bundle, insecure=False),
        PLAIN: Ours(bundle, insecure=True),
        FLOWER: Flower(flower, spec.H_size),
    }
    return {name: contender for name, contender in made.items() if name in names}


def measure(
    size: str, clients: int, contenders: Mapping[str, Contender], arguments: argparse.Namespace, scratch: Path
) -> list[Row]:
    """All contenders with so many clients. Flower, whose rounds take long, has one turn and few rounds."""
    machine, turns = this_machine(), dict[str, list[Turn]]()
    if not machine.idle:
        say(f"The load average is {machine.load[0]:.2f}: these figures will be worth little.")
    for number in range(arguments.turns):
        for name, contender in contenders.items():
            if name != FLOWER or number == 0:
                rounds = arguments.flower_rounds if name == FLOWER else arguments.rounds
                turn = play(contender, Work(clients, 1 + rounds), scratch, count=False)
                turns.setdefault(name, []).append(turn)
                say(f"{size}, {clients} clients, {name}: {turn.round_seconds:.3f} s a round")
    rows = []
    for name, played in turns.items():
        up, down = bytes_of(contenders[name], clients, scratch) if name != FLOOR and arguments.count else (0.0, 0.0)
        rows.append(
            Row(
                size=size,
                clients=clients,
                contender=name,
                payload=4 * spec_of(size).H_size,
                seconds=statistics.median(turn.round_seconds for turn in played),
                turns=tuple(turn.seconds for turn in played),
                server_mib=max(turn.server_bytes for turn in played) / 2**20,
                up=up,
                down=down,
                machine=asdict(machine),
                version=version_of(contenders[name]),
            )
        )
    return rows


def bytes_of(contender: Contender, clients: int, scratch: Path) -> tuple[float, float]:
    """Bytes on the wire, up and down, of a client in a round: what more rounds add, without what a start takes."""
    few, many = COUNTED
    fewer, more = (play(contender, Work(clients, rounds), scratch, count=True) for rounds in COUNTED)
    parts = clients * (many - few)
    return (more.up - fewer.up) / parts, (more.down - fewer.down) / parts


def play(contender: Contender, work: Work, scratch: Path, *, count: bool) -> Turn:
    """A turn in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        return contender.play(work, Path(folder), count=count)


def version_of(contender: Contender) -> str:
    """Of a Flower that is installed elsewhere; empty for the others, whose source is here."""
    if not isinstance(contender, Flower):
        return ""
    code = "import importlib.metadata as m; print(m.version('flwr'), m.version('grpcio'))"
    done = subprocess.run([contender.python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(rows: Sequence[Row], file: Path, document: Path) -> None:
    """The figures of these rows in place of their former ones, and the report of all."""
    kept = [Row(**row) for row in json.loads(file.read_text("utf-8"))] if file.exists() else []
    merged = {row.key: row for row in (*kept, *rows)}
    every = [merged[key] for key in sorted(merged)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps([asdict(row) for row in every], indent=1) + "\n").encode())
    write_section(document, "server", server_section(every))
    say(f"{file} and {document} are written")


def say(text: str) -> None:
    """Progress, beside whatever is printed."""
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    everybody = (FLOOR, OURS, PLAIN, FLOWER)
    parser.add_argument("--sizes", nargs="+", choices=tuple(RANKS), default=tuple(RANKS), help="of the payload")
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS, help="in a round")
    parser.add_argument("--contenders", nargs="+", choices=everybody, default=everybody, help="who is measured")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of every contender but Flower ({TURNS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measured in a turn ({ROUNDS})")
    parser.add_argument("--flower-rounds", type=int, default=FLOWER_ROUNDS, help=f"of Flower ({FLOWER_ROUNDS})")
    parser.add_argument("--no-count", dest="count", action="store_false", help="leave the bytes on the wire out")
    parser.add_argument("--flower", type=Path, default=ROOT / ".venv-flower/bin/python", help="the Python it is in")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=ROOT / "BENCHMARKS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
