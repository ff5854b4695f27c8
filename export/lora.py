"""A trained adapter as a LoRA adapter of rank heads * rank that PEFT loads, and exactly the same function.

Heads side by side are one product: sum_i B_i (s_i H_i) A_i = lora_B lora_A with lora_A = [A_1; ..; A_h] and
lora_B = [B_1 s_1 H_1, .., B_h s_h H_h]. Modules trained whole go along as PEFT's modules to save. The rank stays
heads * rank also where a layer is less wide than that, which PEFT takes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from export.plain_layers import FUSED
from ravan.bases import draw_bases
from ravan.bundle import SOURCE, Bundle, Task
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
    """Where the adapter is, its rank, and how many layers it adapts."""

    folder: Path
    rank: int
    layers: int


def write_lora(bundle: Bundle, adapter: Path, out: Path) -> Lora:
    """Writes ``adapter`` as PEFT's files to ``out``, a folder that does not exist yet; PEFT itself is not needed.

    ``PeftModel.from_pretrained`` loads it onto the bundle's source, or the model it was made from.

    Raises:
        BundleError: the adapter belongs to another bundle.
        ExportError: an adapted layer is a part of one of the model's own, which LoRA can't name.
        EnvironmentProblem: ``out`` exists.
    """
    spec = bundle.manifest.adapter
    _require_own_layers(bundle)
    tensors = lora_tensors(spec, read_adapter(adapter, spec))
    with new_folder(out) as folder:
        write_atomically(folder / WEIGHTS, save(tensors, {"format": "pt"}))
        write_atomically(folder / CONFIG, (json.dumps(_config(bundle), indent=2) + "\n").encode())
    return Lora(out, spec.heads * spec.rank, len(spec.layers))


def lora_tensors(spec: AdapterSpec, adapter: Update) -> dict[str, np.ndarray]:
    """By PEFT's names: lora_A [heads * rank, d_in] and lora_B [d_out, heads * rank] of every layer, saved tensors."""
    tensors: dict[str, np.ndarray] = {}
    for layer, sH in zip(spec.layers, adapter.sH.reshape(spec.H_shape), strict=True):
        bases = draw_bases(spec, layer)
        outward = np.einsum("hor,hrq->ohq", bases.B.astype(np.float64), sH.astype(np.float64))
        tensors[f"{PREFIX}.{layer.name}.lora_A.weight"] = bases.A.reshape(-1, layer.d_in)
        tensors[f"{PREFIX}.{layer.name}.lora_B.weight"] = outward.reshape(layer.d_out, -1).astype(np.float32)
    tensors |= {f"{PREFIX}.{name}": value for name, value in saved_tensors(spec, adapter.saved).items()}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}


def _require_own_layers(bundle: Bundle) -> None:
    """Raises ExportError if a layer is one of those that a fused one was taken apart into."""
    config = bundle.path(f"{SOURCE}/config.json")
    if not config.exists():  # a torch module of a user's own, adapted as it is
        return
    model_type = json.loads(config.read_text("utf-8")).get("model_type")
    for layer in bundle.manifest.adapter.layers:
        if FUSED.get(model_type, "") in layer.name.split(".")[:-1]:
            raise ExportError(f"{layer.name} is a part of a fused layer, which LoRA can't adapt: use merge instead.")


def _config(bundle: Bundle) -> dict[str, object]:
    """PEFT's LoraConfig; alpha equal to the rank leaves the product unscaled."""
    manifest = bundle.manifest
    spec = manifest.adapter
    modules = dict.fromkeys(tensor.name.rsplit(".", 1)[0] for tensor in spec.saved)
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(manifest.task),
        "base_model_name_or_path": manifest.model,
        "r": spec.heads * spec.rank,
        "lora_alpha": spec.heads * spec.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [layer.name for layer in spec.layers],
        "modules_to_save": list(modules) or None,
    }
