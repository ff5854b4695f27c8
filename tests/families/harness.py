"""What every model family must go through: exported, held against torch, trained without torch, merged back."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from export.bundle import ExportOptions, export_bundle
from export.merge import merge_bundle, reload
from export.recipe import Recipe, logits_of
from export.verify import torch_loss
from ravan.aggregate import Contribution, average
from ravan.bundle import INITIAL, Bundle
from ravan.runtime.adapter import write_adapter
from ravan.runtime.examples import in_order_of_size, read_examples
from ravan.runtime.names import IGNORED, LABELS
from ravan.spec import AdapterSpec
from ravan.update import decode
from tests.families.device import BATCH, Outcome

DEVICE = Path(__file__).with_name("device.py")
TOLERANCE = 1e-4
NOTHING = "nothing"
ALWAYS = frozenset(
    {
        *("GPT-2-causal-lm", "ModernBERT-token-classification", "ViT-image-classification"),
        "torch module, token cross entropy-custom",
    }
)
"""Families and tasks that make test tries too; the others go much the same way as they or a test of tests/export."""


@dataclass(frozen=True)
class Family:
    """A model family at one task, as the README's table shows it, and a tiny random model of it.

    Attributes:
        model: the family's name as users say it.
        task: as the manifest says it.
        adapted: last parts of the adapted layers' names, separated by commas; a remark may follow in parentheses.
        saved: modules that are trained whole, separated by commas, "nothing" if none is; a remark likewise.
        recipe: exports the model in a folder.
        make: writes a model to a folder that does not exist yet.
        data: writes examples below a folder and says where.
    """

    model: str
    task: str
    adapted: str
    saved: str
    recipe: Callable[[Path], Recipe]
    make: Callable[[Path], object]
    data: Callable[[Path], Path]

    def __str__(self) -> str:
        return f"{self.model}-{self.task}"


def every(families: Sequence[Family]) -> list[Any]:
    """Parameters of a test, of which the kin mark says which make test leaves out."""
    return [
        pytest.param(each, id=str(each), marks=[] if str(each) in ALWAYS else [pytest.mark.kin]) for each in families
    ]


@dataclass(frozen=True)
class Figures:
    """What a family's test saw.

    Attributes:
        layers: how many layers were adapted.
        gradient: largest difference of a gradient to torch's, relative to the largest value in its tensor.
        logits: largest difference of the merged model's logits to the adapter model's, absolute.
        before: mean loss over the example data at the start.
        after: the same after training.
    """

    layers: int
    gradient: float
    logits: float
    before: float
    after: float


def check_family(family: Family, folder: Path, edge_python: str) -> Figures:
    """Takes a family all the way: from a model folder to a bundle, an adapter trained without torch, a merged model."""
    family.make(folder / "model")
    data = family.data(folder)
    options = ExportOptions(heads=2, rank=4, tolerance=TOLERANCE)
    bundle = export_bundle(lambda: family.recipe(folder / "model"), options, folder / "bundle", family.model)
    assert bundle.manifest.task == family.task
    spec, verified = bundle.manifest.adapter, bundle.manifest.verification
    assert_shown(family, spec)
    outcome = train_on_a_device(bundle, data, folder, edge_python)
    assert outcome.after < 0.95 * outcome.before, "training must lower the loss"
    merged = merge_bundle(bundle, folder / "adapter.safetensors", folder / "merged")
    assert loss_of(bundle, merged.folder, data) == pytest.approx(outcome.after, rel=1e-4, abs=1e-4)
    logits = max(merged.transformers, merged.onnx)
    return Figures(len(spec.layers), verified["gradient"], logits, outcome.before, outcome.after)


def record(family: Family, figures: Figures, folder: Path) -> None:
    """Leaves the family's row for scripts/families_table.py."""
    row = {"model": family.model, "task": family.task, "adapted": family.adapted, "saved": family.saved}
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{family}.json".replace("/", "-").replace(" ", "-")
    (folder / name).write_text(json.dumps(row | asdict(figures)) + "\n", "utf-8")


def assert_shown(family: Family, spec: AdapterSpec) -> None:
    """What the table says of the defaults is what they are."""
    assert set(_named(family.adapted)) == {layer.name.rsplit(".", 1)[-1] for layer in spec.layers}
    modules = {tensor.name: f".{tensor.name.rsplit('.', 1)[0]}." for tensor in spec.saved}
    said = [] if family.saved == NOTHING else _named(family.saved)
    for name, module in modules.items():
        assert any(f".{part}." in module for part in said), f"{name} is trained whole and not in the table"
    for part in said:
        assert any(f".{part}." in module for module in modules.values()), f"{part} is in the table and not trained"


def train_on_a_device(bundle: Bundle, data: Path, folder: Path, edge_python: str) -> Outcome:
    """A device's local run in an environment without torch, averaged as the server does, into adapter.safetensors."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [edge_python, str(DEVICE), str(bundle.folder), str(data), str(folder / "update.ravan")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean, check=False)
    assert done.returncode == 0, done.stderr
    spec = bundle.manifest.adapter
    start = decode(spec, bundle.path(INITIAL).read_bytes())
    update = decode(spec, (folder / "update.ravan").read_bytes())
    adapter = average(spec, start, [Contribution("device", lambda: update)])
    write_adapter(folder / "adapter.safetensors", bundle.manifest, adapter, {})
    return Outcome(**json.loads(done.stdout))


def loss_of(bundle: Bundle, model: Path, data: Path) -> float:
    """The mean loss of a plain model folder over the data, by torch."""
    plain = reload(bundle, model).model
    total = weight = 0.0
    for batch in in_order_of_size(read_examples(bundle, data), BATCH):
        tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
        labels = tensors.pop(LABELS)
        counted = len(labels) if labels.is_floating_point() else int((labels != IGNORED).sum())
        with torch.no_grad():
            total += counted * torch_loss(logits_of(plain(**tensors)), labels).item()
        weight += counted
    return total / weight


def _named(shown: str) -> list[str]:
    """The names in a cell of the table."""
    return shown.split(" (", maxsplit=1)[0].split(", ")
