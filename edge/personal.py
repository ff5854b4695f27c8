"""Personalization: after a federated run a device goes on alone, and keeps its own s, its own heads, or more.

Nothing leaves the device. The personal adapter is a file like the global one, s_i folded into H_i, so that all that
reads adapters reads it too. What is measured is measured on examples that personalization does not train on.
"""

import hashlib
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.finding import find_bundle
from edge.held_out import Part, split
from edge.home import PERSONAL, Home
from edge.job import Scope
from edge.quota import CACHE
from edge.settings import PersonalizeSettings
from edge.training import LocalRun, MiniBatches, train_locally
from edge.workshop import Workshop
from ravan.bundle import Bundle
from ravan.errors import SettingsError
from ravan.inputs import Metric
from ravan.parts import over
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.adapter import read_adapter, write_adapter
from ravan.runtime.dataset import find_dataset
from ravan.runtime.examples import in_order_of_size, read_examples
from ravan.runtime.session import Evaluation, Evaluator
from ravan.update import Update

FEW = 100  # held-out examples; below, the figures are said with what one example weighs
RATES = {Scope.S: 5e-2, Scope.HEADS: 2e-3, Scope.ALL: 2e-3}
"""Learning rates unless told otherwise: s alone is few numbers near 1, which smaller steps would hardly move."""


@dataclass(frozen=True)
class Personalization:
    """What came of it.

    Attributes:
        before: of the global adapter on the held-out examples.
        after: of the personal one on the same.
        metric: by which the two are compared.
        trained_on: number of examples.
        held_out: number of examples; the evaluations count their labels, which may be one for every token.
        scope: what was trained.
        run: the local run.
        kept: where the personal adapter was written, None if it was not.
        earlier: one that was written before and stays, because this one was not kept.
    """

    before: Evaluation
    after: Evaluation
    metric: Metric
    trained_on: int
    held_out: int
    scope: Scope
    run: LocalRun
    kept: Path | None = None
    earlier: Path | None = None

    @property
    def worse(self) -> bool:
        """Whether the personal adapter is worse: by accuracy, and where that is the same or none, by loss."""
        by_accuracy = self.metric is Metric.ACCURACY
        before, after = ((found.accuracy if by_accuracy else 0.0, -found.loss) for found in (self.before, self.after))
        return not after >= before

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "keep": str(self.scope),
            "heads_per_layer": self.run.heads_per_layer,
            "trained_on": self.trained_on,
            "steps": len(self.run.losses),
            "seconds": round(self.run.seconds, 3),
            "held_out": {"examples": self.held_out, "labels": self.before.examples},
            "global": self._figures(self.before),
            "personal": self._figures(self.after),
            "worse": self.worse,
            "kept": self.kept and str(self.kept),
            "earlier": self.earlier and str(self.earlier),
        }

    def describe(self) -> str:
        """For people."""
        what = {Scope.S: "s", Scope.HEADS: "s and heads", Scope.ALL: "s, heads and modules trained whole"}[self.scope]
        steps, seconds = len(self.run.losses), self.run.seconds
        lines = [
            f"global adapter    {self._figures_in_words(self.before)}",
            f"personal adapter  {self._figures_in_words(self.after)}  "
            f"({what}: {steps} steps on {self.trained_on} examples, {seconds:.1f} s)",
            self._measured_on(),
        ]
        if self.kept is None:
            lines.append("not kept, because it is worse than the global one: --even-if-worse keeps it")
            lines += [f"an earlier one stays: {self.earlier}"] if self.earlier else []
        else:
            lines.append(f"kept{', though worse than the global one' * self.worse}: {self.kept}")
        return "\n".join(lines)

    def _measured_on(self) -> str:
        said = f"measured on {self.held_out} held-out example{'s' * (self.held_out != 1)}"
        if self.before.examples != self.held_out:
            return f"{said}, {self.before.examples} labels"
        few = self.held_out < FEW and self.metric is Metric.ACCURACY
        return said + (f": one more or less is {100 / self.held_out:.1f} points" if few else "")

    def _figures(self, found: Evaluation) -> dict[str, float]:
        figures = found.figures | {"loss": found.loss}
        return figures | ({"perplexity": found.perplexity} if self.metric is Metric.PERPLEXITY else {})

    def _figures_in_words(self, found: Evaluation) -> str:
        match self.metric:
            case Metric.ACCURACY:
                return f"accuracy {found.accuracy:.1%}, loss {found.loss:.4f}"
            case Metric.PERPLEXITY:
                return f"perplexity {found.perplexity:.2f}"
            case Metric.LOSS:
                return f"loss {found.loss:.4f}"


def personalize(settings: PersonalizeSettings, on_step: Callable[[str], None] = lambda said: None) -> Personalization:
    """Trains on a part of the device's data, measures on the rest, and keeps what is not worse.

    Raises:
        BundleError: no such bundle or adapter, or they are not of one run.
        DataError: the data is of no use, or too little to hold a part out.
        Diverged: training left the numbers.
    """
    name = settings.name or settings.data.stem
    if Path(name).name != name:
        raise SettingsError(f"--name: {name!r} can't name a file: leave slashes out.")
    bundle = find_bundle(settings.adapter, settings.bundle, settings.home)
    base = read_adapter(settings.adapter, bundle.manifest.adapter)
    make = find_dataset(settings.dataset) if settings.dataset else None
    examples = read_examples(bundle, settings.data, skip_bad=settings.skip_bad, make=make)
    parts = split(examples, settings.held_out, settings.seed)
    with closing(Home(settings.home)) as home:
        found, adapter = _train(settings, bundle, base, parts, home, on_step)
        path = settings.home / PERSONAL / f"{name}.safetensors"
        if found.worse and not settings.even_if_worse:
            return replace(found, earlier=path if path.exists() else None)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        notes = {key: value for key, value in found.facts().items() if key not in ("kept", "earlier")}
        of = hashlib.sha256(settings.adapter.read_bytes()).hexdigest()
        write_adapter(path, bundle.manifest, adapter, {"personal": notes, "global_adapter": of})
        return replace(found, kept=path)


def _train(
    settings: PersonalizeSettings,
    bundle: Bundle,
    base: Update,
    parts: tuple[Part, Part],
    home: Home,
    on_step: Callable[[str], None],
) -> tuple[Personalization, Update]:
    """The figures, nothing kept yet, and the personal adapter with every head."""
    spec, (trained_on, held_out) = bundle.manifest.adapter, parts
    tokens = bundle.manifest.micro_batch if settings.micro_batch is None else settings.micro_batch
    plan = _plan(settings, len(trained_on))

    def measured(adapter: Update) -> Evaluation:
        rows = tokens // max(map(held_out.tokens, range(len(held_out)))) if tokens else plan.batch_size
        evaluator = Evaluator(bundle, settings.session)  # one session at a time: a device may have room for no more
        return evaluator.evaluate(adapter.trainables(spec), in_order_of_size(held_out, max(rows, 1)))

    on_step("measuring the global adapter")
    before = measured(base)
    run = _local_run(settings, bundle, base, trained_on, plan, tokens, home, on_step)
    adapter = over(base, run.update)
    on_step("measuring the personal adapter")
    after = measured(adapter)
    sizes = len(trained_on), len(held_out)
    return Personalization(before, after, bundle.manifest.metric, *sizes, settings.keep, run), adapter


def _local_run(
    settings: PersonalizeSettings,
    bundle: Bundle,
    base: Update,
    examples: Part,
    plan: TrainingPlan,
    tokens: int,
    home: Home,
    on_step: Callable[[str], None],
) -> LocalRun:
    generator = np.random.default_rng(settings.seed)
    with closing(Workshop(settings.session, home.folder / CACHE, settings.cache_mb << 20)) as workshop:
        batches = MiniBatches(workshop.prepared(bundle, examples), plan.batch_size, tokens, generator)
        return train_locally(
            workshop.step(bundle),
            bundle.manifest.adapter,
            base,
            batches,
            plan,
            settings.heads,
            generator,
            lambda step, loss: on_step(f"step {step} of {plan.local_steps}, loss {loss:.3f}"),
            settings.keep,
        )


def _plan(settings: PersonalizeSettings, examples: int) -> TrainingPlan:
    size = min(settings.batch_size, examples)
    rate = settings.learning_rate or RATES[settings.keep]
    steps = math.ceil(settings.epochs * examples / size)
    return TrainingPlan(local_steps=steps, batch_size=size, learning_rate=rate, saved_learning_rate=rate)
