"""Loading and saving with Hugging Face transformers, quietly and with our errors."""

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from export.plain_layers import put_together, take_apart
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


def load_model(kind: Any, model: str | Path, seed: int, settings: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """A model by one of transformers' AutoModelFor... classes, in float32 and evaluation mode, its layers plain.

    Args:
        kind: such as ``AutoModelForSequenceClassification``.
        model: folder, hub id, or path of a .gguf file.
        seed: modules that the checkpoint lacks, or has in another size, are drawn from it.
        settings: replace the config's.

    Attention is "eager": plain products and softmax, which the exporter turns into plain ONNX.

    Raises:
        ExportError: transformers can't load it, or not for this.
    """
    where, options = _located(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            config = AutoConfig.from_pretrained(where, **options, **(settings or {}))
            if type(config) not in kind._model_mapping:
                raise ExportError(
                    f"{model} is of family {config.model_type!r}, which transformers does not have as {kind.__name__}: "
                    "choose a model of another family."
                )
            loaded: PreTrainedModel = kind.from_pretrained(
                where,
                config=config,
                attn_implementation="eager",
                dtype=torch.float32,
                ignore_mismatched_sizes=bool(settings),
                **options,
            )
        except ImportError as error:
            raise ExportError(f"transformers can't load {model} ({_reason(error)}): install what it names.") from error
        except (OSError, ValueError, KeyError) as error:
            raise ExportError(
                f"transformers can't load {model} ({_reason(error)}): give a model folder or hub id."
            ) from error
    loaded = _dequantized(loaded) if options else loaded
    loaded.eval()
    take_apart(loaded)
    return loaded


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """A model's tokenizer.

    Raises:
        ExportError: it has none that transformers can load.
    """
    where, options = _located(model)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(f"{model} has no tokenizer that transformers can load: add its tokenizer.json.") from error
    return tokenizer


def longest_input(model: PreTrainedModel) -> int:
    """Tokens of the longest sequence that a model takes.

    RoBERTa counts positions from behind its padding id, so that a table of 514 serves 512 tokens.
    """
    positions = [m for name, m in model.named_modules() if name.endswith(".position_embeddings")]
    padding = next((m.padding_idx for m in positions if isinstance(m, nn.Embedding)), None)
    longest: int = getattr(model.config, "max_position_embeddings", sys.maxsize)
    return longest if padding is None else longest - padding - 1


def label_names(labels: tuple[str, ...] | None) -> dict[str, Any]:
    """The config's settings for these labels; none to keep its own."""
    if labels is None:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def saved_labels(model: PreTrainedModel) -> tuple[str, ...]:
    """The label names in the order of the logits."""
    names: dict[Any, str] = dict(model.config.id2label or {})
    return tuple(names[i] for i in range(len(names)))


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Saves both as transformers does, in transformers' own layers.

    Raises:
        EnvironmentProblem: the weights can't be written.
    """
    try:
        with put_together(model):
            model.save_pretrained(folder)
    except SafetensorError as error:  # not an OSError, though it carries one
        raise EnvironmentProblem(f"The model can't be written ({error}): free some space and start again.") from error
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _located(model: str | Path) -> tuple[str | Path, dict[str, str]]:
    """What transformers is given: a folder or hub id, or the folder and name of a GGUF file."""
    path = Path(model)
    return (path.parent, {"gguf_file": path.name}) if path.suffix.lower() == ".gguf" else (model, {})


def _dequantized(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that knows nothing of the quantized file it came from, and so can be saved."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    return fresh


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
