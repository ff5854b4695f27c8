"""A trained adapter as a LoRA adapter of rank heads * rank that PEFT loads, and exactly the same function.

Heads side by side are one product: sum_i B_i (s_i H_i) A_i = lora_B lora_A with lora_A = [A_1; ..; A_h] and
lora_B = [B_1 s_1 H_1, .., B_h s_h H_h]. So are the parts of a fused layer, whose ranks add up. Modules trained whole go
along as PEFT's modules to save. No rank is reduced where a layer is less wide than that, which PEFT takes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from export.plain_layers import FUSED, PARTS, TURNED
from ravan.bases import draw_bases
from ravan.bundle import SOURCE, Bundle, Manifest, Task
from ravan.errors import ExportError
from ravan.files import new_folder, write_atomically
from ravan.layout import saved_tensors
from ravan.runtime.adapter import read_adapter
from ravan.spec import AdapterSpec
from ravan.update import Update

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model"
TASK_TYPES = {
    Task.TEXT_CLASSIFICATION: "SEQ_CLS",
    Task.TOKEN_CLASSIFICATION: "TOKEN_CLS",
    Task.CAUSAL_LM: "CAUSAL_LM",
    Task.SEQ2SEQ: "SEQ_2_SEQ_LM",
}
"""Of PEFT's task types those that ours are; for others PEFT wraps the model all the same."""


@dataclass(frozen=True)
class Lora:
    """Where the adapter is, its rank (a fused layer's is a multiple), and how many layers it adapts."""

    folder: Path
    rank: int
    layers: int


@dataclass(frozen=True)
class Factors:
    """What is added to one layer of the model as transformers knows it: lora_B lora_A.

    Attributes:
        A: [rank, d_in].
        B: [d_out, rank].
    """

    A: np.ndarray
    B: np.ndarray

    @property
    def rank(self) -> int:
        """Of this layer."""
        return len(self.A)


def write_lora(bundle: Bundle, adapter: Path, out: Path) -> Lora:
    """Writes ``adapter`` as PEFT's files to ``out``, a folder that does not exist yet; PEFT itself is not needed.

    ``PeftModel.from_pretrained`` loads it onto the bundle's source, or the model it was made from.

    Raises:
        BundleError: the adapter belongs to another bundle.
        ExportError: a part of a fused layer was trained whole, which PEFT can't name.
        EnvironmentProblem: ``out`` exists.
    """
    manifest, spec = bundle.manifest, bundle.manifest.adapter
    trained = read_adapter(adapter, spec)
    model_type = _model_type(bundle)
    layers = factors(spec, trained, FUSED.get(model_type))
    saved = _saved(spec, trained, model_type)
    tensors = {f"{PREFIX}.{name}.lora_A.weight": layer.A for name, layer in layers.items()}
    tensors |= {f"{PREFIX}.{name}.lora_B.weight": layer.B for name, layer in layers.items()}
    tensors |= {f"{PREFIX}.{name}": value for name, value in saved.items()}
    config = _config(manifest, layers, saved, turned=model_type in TURNED)
    with new_folder(out) as folder:
        packed = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
        write_atomically(folder / WEIGHTS, save(packed, {"format": "pt"}))
        write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return Lora(out, spec.heads * spec.rank, len(layers))


def factors(spec: AdapterSpec, adapter: Update, fused: str | None = None) -> dict[str, Factors]:
    """The factors of every layer by its name; parts of a layer called ``fused`` belong to that one."""
    found: dict[str, Factors] = {}
    for layer, sH in zip(spec.layers, adapter.sH.reshape(spec.H_shape), strict=True):
        bases, name = draw_bases(spec, layer), layer.name
        B = np.einsum("hor,hrq->ohq", bases.B.astype(np.float64), sH.astype(np.float64)).reshape(layer.d_out, -1)
        A = bases.A.reshape(-1, layer.d_in)
        whole, _, part = name.rpartition(".")
        if _is_fused(whole, fused):
            rows = np.zeros((len(PARTS), *B.shape))
            rows[PARTS.index(part)] = B
            name, B = whole, rows.reshape(-1, B.shape[1])
            if before := found.get(whole):
                A, B = np.concatenate([before.A, A]), np.concatenate([before.B, B], axis=1)
        found[name] = Factors(A, B)
    return found


def _model_type(bundle: Bundle) -> str:
    """As transformers calls it; empty for a torch module of a user's own, which is adapted as it is."""
    config = bundle.path(f"{SOURCE}/config.json")
    return str(json.loads(config.read_text("utf-8")).get("model_type", "")) if config.exists() else ""


def _saved(spec: AdapterSpec, adapter: Update, model_type: str) -> dict[str, np.ndarray]:
    """The tensors trained whole, as transformers holds them.

    Raises:
        ExportError: one belongs to a part of a fused layer.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, value in saved_tensors(spec, adapter.saved).items():
        module, _, kind = name.rpartition(".")
        if _is_fused(module.rpartition(".")[0], FUSED.get(model_type)):
            raise ExportError(f"{module} was trained whole and is a part of a layer, which PEFT can't name: use merge.")
        turned = kind == "weight" and module.rpartition(".")[2] in TURNED.get(model_type, ())
        tensors[name] = value.T if turned else value
    return tensors


def _is_fused(module: str, fused: str | None) -> bool:
    return fused is not None and module.rpartition(".")[2] == fused


def _config(
    manifest: Manifest, layers: Mapping[str, Factors], saved: Mapping[str, np.ndarray], *, turned: bool
) -> dict[str, object]:
    """PEFT's LoraConfig; alpha equal to the rank leaves the product unscaled."""
    rank = manifest.adapter.heads * manifest.adapter.rank
    others = {name: layer.rank for name, layer in layers.items() if layer.rank != rank}
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(manifest.task),
        "base_model_name_or_path": manifest.model,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": turned,
        "inference_mode": True,
        "target_modules": list(layers),
        "modules_to_save": list(dict.fromkeys(name.rpartition(".")[0] for name in saved)) or None,
    }
