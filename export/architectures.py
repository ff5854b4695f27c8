"""Sensible defaults for each model family that Hugging Face transformers names by ``config.model_type``."""

from dataclasses import dataclass

from ravan.errors import ExportError


@dataclass(frozen=True)
class Architecture:
    """What to adapt and what to train whole for text classification.

    Attributes:
        targets: the attention's query and value projections, as the paper adapts (section 5).
        saved: modules that a new task needs trained whole: the classifier and what was never trained before it.
    """

    targets: tuple[str, ...]
    saved: tuple[str, ...]


_BERT = Architecture(("attention.self.query", "attention.self.value"), ("bert.pooler", "classifier"))

TEXT_CLASSIFIERS = {
    "bert": _BERT,
    "roberta": Architecture(_BERT.targets, ("classifier",)),
    "xlm-roberta": Architecture(_BERT.targets, ("classifier",)),
    "electra": Architecture(_BERT.targets, ("classifier",)),
    "distilbert": Architecture(("attention.q_lin", "attention.v_lin"), ("pre_classifier", "classifier")),
}


def text_classifier_defaults(model_type: str) -> Architecture:
    """The defaults for a family.

    Raises:
        ExportError: the family is not in the table.
    """
    try:
        return TEXT_CLASSIFIERS[model_type]
    except KeyError:
        known = ", ".join(TEXT_CLASSIFIERS)
        raise ExportError(
            f"No defaults for model type {model_type!r} (known: {known}): name the modules with --target and --train."
        ) from None
