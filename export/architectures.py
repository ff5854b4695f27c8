"""Sensible defaults for each model family that Hugging Face transformers names by ``config.model_type``."""

from collections.abc import Mapping
from dataclasses import dataclass

from ravan.errors import ExportError


@dataclass(frozen=True)
class Architecture:
    """What to adapt and what to train whole.

    Attributes:
        targets: the attention's query and value projections, as the paper adapts (section 5).
        saved: modules that a new task needs trained whole: the classifier and what was never trained before it.
    """

    targets: tuple[str, ...]
    saved: tuple[str, ...] = ()


# The parts of layers that are query, key and value in one are named by export.plain_layers.
_BERT = Architecture(("attention.self.query", "attention.self.value"), ("bert.pooler", "classifier"))
_ENCODER = Architecture(_BERT.targets, ("classifier",))
_DISTILBERT = Architecture(("attention.q_lin", "attention.v_lin"), ("pre_classifier", "classifier"))
_MODERNBERT = Architecture(("Wqkv.query", "Wqkv.value"), ("head", "classifier"))  # embedding models lack the head
_LLAMA = Architecture(("q_proj", "v_proj"))
_GPT2 = Architecture(("c_attn.query", "c_attn.value"))

TEXT_CLASSIFIERS = {
    "bert": _BERT,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "electra": _ENCODER,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
}
TOKEN_CLASSIFIERS = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "electra": _ENCODER,
    "distilbert": Architecture(_DISTILBERT.targets, ("classifier",)),
    "modernbert": _MODERNBERT,
}
CAUSAL_LMS = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "gpt2": _GPT2,
}
_VIT = Architecture(("attention.q_proj", "attention.v_proj"), ("classifier",))
IMAGE_CLASSIFIERS = {
    "vit": _VIT,
    "deit": Architecture(_VIT.targets, ("*classifier",)),  # with a teacher there are two, whose logits are averaged
    "clip": Architecture(("self_attn.q_proj", "self_attn.v_proj"), ("classifier",)),
    "dinov2": _VIT,
}
# Self-attention in encoder and decoder, as the paper adapts T5. The decoder's attention to the encoder
# (EncDecAttention) stays frozen unless --target names it too.
_T5 = Architecture(("SelfAttention.q", "SelfAttention.v"))
SEQ2SEQ_MODELS = {"t5": _T5, "mt5": _T5, "umt5": _T5}


def defaults_for(table: Mapping[str, Architecture], model_type: str) -> Architecture:
    """The defaults for a family.

    Raises:
        ExportError: the family is not in the table.
    """
    try:
        return table[model_type]
    except KeyError:
        known = ", ".join(table)
        raise ExportError(
            f"No defaults for model type {model_type!r} (known: {known}): name the modules with --target and --train."
        ) from None
