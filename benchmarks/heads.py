"""What each way of spreading a budget of heads over layers saves a device, and what it costs the model.

usage: python -m benchmarks.heads [--only step|accuracy] [--rounds N] [--cells N], in the repository.

A step of all-MiniLM-L6-v2 is measured for every budget, each in a process of its own: time, memory and bytes. Then a
small federation is run for every spread and three mixes of devices (bell, uniform, skewed-right, as in the paper's
section 5): 20 Newsgroups over 20 devices, int8 products, each device with the budget of its kind, trained by the
product's code with the graph that its budget has. The cells of a seed share bundle, split, budgets, who takes part and
every batch. What was run before is kept in benchmarks/results/heads.json and not run again; BENCHMARKS.md is written
from it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import DEVICES, LENGTH, PLAN, ROOT, Variant, export, play, read
from benchmarks.report import write_section
from demo.data import Corpus, newsgroups
from edge.bench import median_seconds
from edge.runtimes import Runtimes
from edge.steps import open_step
from edge.training import accumulate
from ravan.bundle import INITIAL, WEIGHTS, Bundle, Precision, open_bundle
from ravan.files import write_atomically
from ravan.processes import last_words
from ravan.runtime.footprint import full_parts
from ravan.runtime.memory import mapped_part, peak_memory
from ravan.runtime.session import RuntimeOptions
from ravan.spread import Spread, heads_for_budget, layers_for_budget
from ravan.update import Update, decode
from ravan.wire import WireFormat, packed_size

RESULTS = ROOT / "benchmarks/results/heads.json"
BUDGETS = (0.25, 0.5, 0.75, 1.0)
MIXES: Mapping[str, Sequence[int]] = {"bell": (3, 7, 7, 3), "uniform": (5, 5, 5, 5), "skewed-right": (10, 6, 3, 1)}
"""Of 20 devices, how many have each of the budgets; skewed-right: most are weak."""
WHOLE = "everyone whole"
HELD_OUT, SEED = 2000, 0
BATCH, STEPS = 8, 5
FEDERATION = replace(PLAN, local_steps=6)


@dataclass(frozen=True)
class Cost:
    """A step with heads in so many of the last layers: median seconds, most resident bytes without mapped weights."""

    precision: Precision
    layers: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Cell:
    """One federation; bytes are those of an upload, the mean."""

    spread: str
    mix: str
    rounds: int
    accuracy: float
    loss: float
    bytes_up: float


def main() -> None:
    """Measures and runs what is not there yet, and writes the section."""
    arguments = _parse()
    if arguments.one:
        print(json.dumps(asdict(_measure_here(open_bundle(arguments.one), arguments.layers))))
        return
    results: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    corpus = newsgroups()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "step":
            cells = _federations(corpus, arguments.rounds, results.get("cells", []), arguments.bundle or Path(folder))
            for cell in islice(cells, arguments.cells):
                _keep(results, "cells", asdict(cell))
        if arguments.only != "accuracy":
            results["steps"] = [asdict(cost) for cost in _costs(corpus, Path(folder))]
            _keep(results, "steps")
    write_section(ROOT / "BENCHMARKS.md", "heads", "\n".join(lines(results)))


def _keep(results: dict[str, Any], name: str, *more: dict[str, Any]) -> None:
    results[name] = [*results.get(name, []), *more]
    print(json.dumps(more or results[name]), flush=True)
    write_atomically(RESULTS, (json.dumps(results, indent=2) + "\n").encode())


def _federations(corpus: Corpus, rounds: int, known: Sequence[Mapping[str, Any]], scratch: Path) -> Iterator[Cell]:
    """Every cell that is not known yet, on one bundle, which is made in ``scratch`` if it is not there."""
    cells = [(Spread.PER_LAYER, WHOLE), *((spread, mix) for mix in MIXES for spread in Spread)]
    done = {(cell["spread"], cell["mix"], cell["rounds"]) for cell in known}
    wanted = [cell for cell in cells if (*cell, rounds) not in done]
    if not wanted:
        return
    chosen = np.random.default_rng(SEED).permutation(len(corpus.test))[:HELD_OUT]
    small = replace(corpus, test=tuple(corpus.test[i] for i in chosen))
    there = scratch / "bundle"
    bundle = open_bundle(there) if there.exists() else export(Variant("int8", Precision.INT8), SEED, small, scratch)
    devices, held_out = read(bundle, small, SEED, scratch)
    for spread, mix in wanted:
        sizes: list[int] = []
        send = partial(_sent, bundle, sizes)
        plan, budgets = replace(FEDERATION, head_spread=spread), budgets_of(mix)
        seen, _ = play(bundle, devices, held_out, SEED, rounds, send, plan, budgets.__getitem__)
        yield Cell(str(spread), mix, rounds, seen.accuracy, seen.loss, float(np.mean(sizes)))


def budgets_of(mix: str) -> list[float]:
    """A budget for each device; which device has which is drawn, the same for all spreads."""
    if mix == WHOLE:
        return [1.0] * DEVICES
    budgets = [budget for budget, count in zip(BUDGETS, MIXES[mix], strict=True) for _ in range(count)]
    order = np.random.default_rng([SEED, 2]).permutation(len(budgets))
    return [budgets[i] for i in order]


def _sent(bundle: Bundle, sizes: list[int], device: int, base: Update, trained: Update) -> Update:
    sizes.append(packed_size(bundle.manifest.adapter, WireFormat.FP32, int(trained.heads.sum())))
    return trained


def _costs(corpus: Corpus, scratch: Path) -> Iterator[Cost]:
    """Of a step in both precisions, with heads in all layers and in the last ones."""
    for precision in Precision:
        folder = scratch / precision
        folder.mkdir()
        bundle = export(Variant(precision, precision), SEED, corpus, folder)
        for budget in BUDGETS:
            layers = layers_for_budget(Spread.TOP_LAYERS, budget, len(bundle.manifest.adapter.layers))
            command = ["--one", str(bundle.folder), "--layers", str(layers)]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.heads", *command], capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"A step could not be measured: {last_words(done)}")
            yield Cost(**json.loads(done.stdout))


def _measure_here(bundle: Bundle, layers: int) -> Cost:
    spec = bundle.manifest.adapter
    parts = full_parts(bundle, BATCH, LENGTH, BATCH * LENGTH)
    trainables = decode(spec, bundle.path(INITIAL).read_bytes()).trainables(spec)
    with closing(open_step(Runtimes(), bundle, RuntimeOptions(), layers)) as step:
        seconds = median_seconds(STEPS, lambda: accumulate(step, trainables, parts))
        memory = peak_memory() - mapped_part(bundle.path(WEIGHTS))
    return Cost(bundle.manifest.precision, layers, seconds, memory)


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The section of BENCHMARKS.md."""
    if results.get("steps"):
        yield from _cost_lines([Cost(**cost) for cost in results["steps"]])
    if results.get("cells"):
        yield ""
        yield from _cell_lines([Cell(**cell) for cell in results["cells"]])


def _cost_lines(costs: Sequence[Cost]) -> Iterator[str]:
    most = max(cost.layers for cost in costs)
    yield (
        f"A step of {BATCH} x {LENGTH} tokens, 4 heads of rank 48 in each of {most} layers, in time and memory against "
        "heads in all layers. Per layer and across layers take a whole step whatever the budget, and one more a local "
        "run for the scores; an upload of as many heads has as many bytes in each."
    )
    yield ""
    yield "| budget | layers | " + " | ".join(f"{p}: time | memory" for p in Precision) + " | upload, fp32 |"
    yield "|---" * 7 + "|"
    for budget in BUDGETS:
        layers = heads_for_budget(budget, most)
        cells = []
        for precision in Precision:
            found = {cost.layers: cost for cost in costs if cost.precision == precision}
            one, whole = found[layers], found[most]
            cells.append(f"{1000 * one.seconds:.0f} ms ({one.seconds / whole.seconds:.0%})")
            cells.append(f"{one.memory / 1e6:.0f} MB ({one.memory / whole.memory:.0%})")
        values = 4 * layers * 48**2
        yield f"| {budget} | {layers} | {' | '.join(cells)} | {4 * values / 1e6:.2f} MB |"


def _cell_lines(cells: Sequence[Cell]) -> Iterator[str]:
    rounds = max(cell.rounds for cell in cells)
    found = {(cell.spread, cell.mix): cell for cell in cells if cell.rounds == rounds}
    whole = found.get((Spread.PER_LAYER, WHOLE))
    yield (
        f"Accuracy on {HELD_OUT:,} held-out documents after {rounds} rounds of 5 devices with {FEDERATION.local_steps} "
        f"steps of {FEDERATION.batch_size} documents, one seed, and the mean bytes of an upload"
        + (f"; with every device's budget whole {whole.accuracy:.1%}, {whole.bytes_up / 1e6:.2f} MB:" if whole else ":")
    )
    yield ""
    yield "| of 20 devices with budget 1/4, 1/2, 3/4, 1 | " + " | ".join(Spread) + " |"
    yield "|---" * (len(Spread) + 1) + "|"
    for mix, counts in MIXES.items():
        row = [_cell(found.get((spread, mix))) for spread in Spread]
        yield f"| {mix}: {', '.join(map(str, counts))} | {' | '.join(row)} |"


def _cell(cell: Cell | None) -> str:
    return "not run" if cell is None else f"{cell.accuracy:.1%}, {cell.bytes_up / 1e6:.2f} MB"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["step", "accuracy"], default="")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cells", type=int, default=None, help="Run at most so many federations now.")
    parser.add_argument("--bundle", type=Path, default=None, help="Folder that keeps their bundle between calls.")
    parser.add_argument("--one", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
