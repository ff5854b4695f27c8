"""Loading and saving with Hugging Face transformers, quietly and with our errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ravan.errors import EnvironmentProblem, ExportError


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors only, no progress bars; the settings before come back."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_classifier(model: str | Path, labels: tuple[str, ...] | None = None, seed: int = 0) -> PreTrainedModel:
    """A text classifier in float32, for these labels or for those it was saved with.

    Modules that the checkpoint lacks are drawn from the seed. Attention is "eager": plain products and softmax, which
    the exporter turns into plain ONNX.

    Raises:
        ExportError: transformers can't load it.
    """
    named = {} if labels is None else {"id2label": dict(enumerate(labels)), "label2id": _indices(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            loaded: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
                model,
                config=AutoConfig.from_pretrained(model, **named),
                attn_implementation="eager",
                dtype=torch.float32,
                ignore_mismatched_sizes=labels is not None,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ExportError(
                f"transformers can't load {model} ({_reason(error)}): give a model folder or hub id."
            ) from error
    loaded.eval()
    return loaded


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """A model's tokenizer.

    Raises:
        ExportError: it has none that transformers can load.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{model} has no tokenizer that transformers can load: add its tokenizer.json.") from error
    return tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves both as transformers does.

    Raises:
        EnvironmentProblem: the weights can't be written.
    """
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # not an OSError, though it carries one
        raise EnvironmentProblem(f"The model can't be written ({error}): free some space and start again.") from error
    tokenizer.save_pretrained(folder)


def _indices(labels: tuple[str, ...]) -> dict[str, int]:
    return {label: i for i, label in enumerate(labels)}


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
