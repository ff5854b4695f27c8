"""What smaller uploads cost in accuracy and save in bytes: the demo's rounds in every wire format, several seeds.

usage: python -m benchmarks.wire [--seeds N] [--rounds N], in the repository.

The rounds of ``benchmarks.accuracy`` with int8 products; every upload is packed and unpacked by the product's code,
what the coding leaves out kept for each device. A seed's formats share bundle, split, who takes part and every batch.
Writes benchmarks/results/wire.json and BENCHMARKS.md after each; what is there with as many rounds is not run again.
"""

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.accuracy import ROOT, Variant, export, parse, play, read
from benchmarks.report import write_section
from demo.data import newsgroups
from ravan.bundle import Precision
from ravan.files import write_atomically
from ravan.spec import AdapterSpec
from ravan.update import Update
from ravan.wire import WireFormat, nothing_left_out, pack, unpack

RESULTS = ROOT / "benchmarks/results/wire.json"
VARIANT = Variant("int8", Precision.INT8)


@dataclass(frozen=True)
class Outcome:
    """One format with one seed.

    Attributes:
        bytes_up: of an upload, the mean.
    """

    wire: WireFormat
    seed: int
    accuracy: float
    loss: float
    bytes_up: float


class Line:
    """What uploads go through: each device's coding, and the server's reading of it."""

    def __init__(self, spec: AdapterSpec, wire: WireFormat) -> None:
        self.sizes: list[int] = []
        self._spec, self._wire = spec, wire
        self._left_out: dict[int, Update] = defaultdict(lambda: nothing_left_out(spec))

    def send(self, device: int, base: Update, trained: Update) -> Update:
        """What the server has of an upload."""
        packed = pack(self._spec, self._wire, base, trained, self._left_out[device])
        self._left_out[device] = packed.left_out
        self.sizes.append(len(packed.data))
        return unpack(self._spec, self._wire, base, packed.data)


def main() -> None:
    """Runs what is not there yet of every format with every seed, and writes the comparison."""
    arguments = parse(__doc__)
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    outcomes = [
        Outcome(**{**outcome, "wire": WireFormat(outcome["wire"])})
        for outcome in known.get("outcomes", ())
        if known["rounds"] == arguments.rounds
    ]
    for seed in range(arguments.seeds):
        missing = [wire for wire in WireFormat if seed not in by_seed(outcomes, wire)]
        for outcome in federate(seed, arguments.rounds, missing) if missing else ():
            outcomes.append(outcome)
            print(json.dumps(asdict(outcome)), flush=True)
            write(outcomes, arguments.rounds)


def write(outcomes: Sequence[Outcome], rounds: int) -> None:
    """The figures and their section."""
    results = {"rounds": rounds, "outcomes": [asdict(outcome) for outcome in outcomes]}
    write_atomically(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    write_section(ROOT / "BENCHMARKS.md", "wire", "\n".join(lines(outcomes, rounds)))


def federate(seed: int, rounds: int, formats: Sequence[WireFormat]) -> Iterator[Outcome]:
    """Some formats on one bundle."""
    corpus = newsgroups()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bundle = export(VARIANT, seed, corpus, scratch)
        devices, held_out = read(bundle, corpus, seed, scratch)
        for wire in formats:
            line = Line(bundle.manifest.adapter, wire)
            seen, _ = play(bundle, devices, held_out, seed, rounds, line.send)
            yield Outcome(wire, seed, seen.accuracy, seen.loss, statistics.mean(line.sizes))


def lines(outcomes: Sequence[Outcome], rounds: int) -> Iterator[str]:
    """The table for BENCHMARKS.md."""
    seeds = sorted({outcome.seed for outcome in outcomes})
    yield f"{rounds} rounds, accuracy on 7,528 held-out documents:"
    yield ""
    yield "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | against fp32, same seeds | upload |"
    yield "|---" * (len(seeds) + 4) + "|"
    exact = by_seed(outcomes, WireFormat.FP32)
    for wire in WireFormat:
        found = by_seed(outcomes, wire)
        if not found:
            continue
        cost = statistics.mean(found[seed].accuracy - exact[seed].accuracy for seed in found)
        size = statistics.mean(outcome.bytes_up for outcome in found.values())
        share = statistics.mean(found[seed].bytes_up / exact[seed].bytes_up for seed in found)
        cells = [f"{found[seed].accuracy:.2%}" if seed in found else "not run" for seed in seeds]
        cells += [f"{statistics.mean(o.accuracy for o in found.values()):.2%}", f"{100 * cost:+.2f} points"]
        yield f"| {wire} | {' | '.join(cells)} | {size / 1e6:.3f} MB ({share:.1%}) |"


def by_seed(outcomes: Sequence[Outcome], wire: WireFormat) -> dict[int, Outcome]:
    """The outcomes of one format."""
    return {outcome.seed: outcome for outcome in outcomes if outcome.wire is wire}


if __name__ == "__main__":
    main()
