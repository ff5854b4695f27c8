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


_BERT = Architecture(("attention.self.query", "attention.self.value"), ("bert.pooler", "classifier"))
_ROBERTA = Architecture(_BERT.targets, ("classifier",))
_LLAMA = Architecture(("q_proj", "v_proj"))

TEXT_CLASSIFIERS = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": _ROBERTA,
    "distilbert": Architecture(("attention.q_lin", "attention.v_lin"), ("pre_classifier", "classifier")),
}
CAUSAL_LMS = {"llama": _LLAMA}
IMAGE_CLASSIFIERS = {
    "vit": Architecture(("attention.q_proj", "attention.v_proj"), ("classifier",)),
}


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
