"""What the contenders need, made once before any of them has its turn: models, bundles, data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import WITH, Contender, Job, run_json
from benchmarks.data import write_documents, write_noise
from benchmarks.models import MODELS, Request, config_of, task_of
from benchmarks.works import LOCAL_STEPS, Kind, Work
from export.architectures import (
    CAUSAL_LMS,
    IMAGE_CLASSIFIERS,
    SEQ2SEQ_MODELS,
    TEXT_CLASSIFIERS,
    Architecture,
    defaults_for,
)
from ravan.bundle import Precision, Task, open_bundle
from ravan.errors import RuntimeProblem
from ravan.spec import AdapterSpec

ATTENTIONS = ("eager", "sdpa")
USUAL = tuple(f"{attention}{WITH}dropout" for attention in ATTENTIONS)
PRESETS = ("fast", "default")
_FAMILIES = {
    Task.TEXT_CLASSIFICATION: TEXT_CLASSIFIERS,
    Task.CAUSAL_LM: CAUSAL_LMS,
    Task.IMAGE_CLASSIFICATION: IMAGE_CLASSIFIERS,
    Task.SEQ2SEQ: SEQ2SEQ_MODELS,
}


@dataclass(frozen=True)
class Prepared:
    """A work's contenders, PEFT first, and why bundles of ours could not be exported."""

    contenders: tuple[Contender, ...]
    refused: tuple[str, ...]


class Scratch:
    """A folder with everything made so far; nothing is made twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepared(self, work: Work, steps: int) -> Prepared:
        """The contenders of a work; steps count for all works but rounds.

        Raises:
            RuntimeProblem: the model is not there, or not one bundle can be exported.
        """
        model = self._model(work.model)
        bundles: dict[Precision, Path] = {}
        refused: list[str] = []
        for precision in Precision:
            try:
                bundles[precision] = self._bundle(model, precision, work.top_layers)
            except RuntimeProblem as problem:
                refused.append(f"{precision}: {problem}")
        if not bundles:
            raise RuntimeProblem(f"No bundle for {work.name}: {'; '.join(refused)}")
        job = self._job(work, model, steps)
        spec = open_bundle(next(iter(bundles.values()))).manifest.adapter
        return Prepared((*peft(job, model, spec), *ours(job, bundles)), tuple(refused))

    def _model(self, name: str) -> Path:
        """Raises RuntimeProblem if it can't be written."""
        if name not in MODELS:
            return Path(name)
        out = self._folder / name
        if not out.exists():
            run_json("benchmarks.models", Request(name, str(out)).to_json())
        return out

    def _bundle(self, model: Path, precision: Precision, top_layers: int | None) -> Path:
        """Raises RuntimeProblem if the export refuses."""
        out = self._folder / f"{model.name}-{precision}-{top_layers or 'all'}"
        if not out.exists():
            run_json("benchmarks.models", Request(str(model), str(out), precision, top_layers).to_json())
        return out

    def _job(self, work: Work, model: Path, steps: int) -> Job:
        """Without what tells the contenders apart."""
        if work.kind is Kind.ROUND:
            steps = LOCAL_STEPS
            data = write_documents(self._folder / f"{work.name}.jsonl", work.rows * (steps + 1))
        else:
            batches, config = steps + 1 if work.kind is Kind.CACHED else 1, config_of(model)
            data = write_noise(self._folder / f"{work.name}.npz", work, batches, task_of(config), config)
        return Job(work.kind, "", str(data), work.rows, work.length, steps, "")


def ours(job: Job, bundles: Mapping[Precision, Path]) -> list[Contender]:
    """Every bundle in every preset."""
    return [
        Contender(
            f"{precision} {preset}",
            "benchmarks.our_side",
            Job(job.kind, str(bundle), job.data, job.rows, job.length, job.steps, preset),
            precision=precision,
        )
        for precision, bundle in bundles.items()
        for preset in PRESETS
    ]


def peft(job: Job, model: Path, spec: AdapterSpec) -> list[Contender]:
    """LoRA with about as many trainables in a layer as our heads have, in both attentions."""
    config = config_of(model)
    family: Architecture = defaults_for(_FAMILIES[task_of(config)], str(config["model_type"]))
    common = job.data, job.rows, job.length, job.steps
    return [
        Contender(
            f"PEFT {way}, r = {nearest_rank(spec)}",
            "benchmarks.peft_side",
            Job(job.kind, str(model), *common, way, nearest_rank(spec), family.targets, family.saved),
            reference=way in ATTENTIONS,
            usual=way not in ATTENTIONS,
        )
        for way in (*ATTENTIONS, *USUAL)
    ]


def nearest_rank(spec: AdapterSpec) -> int:
    """The r of LoRA whose r (d_in + d_out) parameters, over the adapted layers, are nearest to those of our heads."""
    return max(round((spec.H_size + spec.s_size) / sum(layer.d_in + layer.d_out for layer in spec.layers)), 1)
