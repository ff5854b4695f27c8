"""What must hold of a custom model before it is exported; every sentence says which part of it is wrong."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from export.plain_attention import without_fast_paths
from export.recipe import logits_of
from ravan.errors import ExportError
from ravan.inputs import BATCH, DTYPES, LEAST, Loss
from ravan.plugins import describe
from ravan.runtime import names
from ravan.torch import CustomModel

RESERVED = {names.LABELS, names.TRAINABLES, names.HIDDEN, names.GRADIENTS, names.LOGITS, names.LOSS, names.WEIGHT}
RESERVED |= {names.CORRECT}
AXES = {Loss.CROSS_ENTROPY: "[rows, classes]", Loss.TOKEN_CROSS_ENTROPY: "[rows, ..., classes]"}


def checked(made: object, factory: str) -> CustomModel:
    """The same, once every part of it is what ``CustomModel`` says.

    Raises:
        ExportError: names the factory and the part.
    """
    if not isinstance(made, CustomModel):
        raise ExportError(f"{factory} returned {type(made).__name__}: return a ravan.torch.CustomModel.")
    checks = (_module, _loss, _batch, _dynamic, _longest, _patterns, _label_names)
    _refuse(factory, (reason for check in checks for reason in check(made)))
    return made


def checked_outputs(made: CustomModel, factory: str, batch: Mapping[str, Tensor] | None = None) -> Tensor:
    """The module's outputs for a batch, by default its own.

    Raises:
        ExportError: it fails, or its outputs are not what the loss takes, differ between two runs, or mix rows.
    """
    batch = made.batch if batch is None else batch
    outputs = _run(made.module, batch)
    _refuse(factory, _outputs(Loss(made.loss), outputs, next(iter(batch.values())).shape[0]))
    return outputs


def checked_rows(made: CustomModel, factory: str, outputs: Tensor) -> None:
    """Raises ExportError if ``outputs`` of the example batch would come out otherwise in another batch."""
    again = _run(made.module, made.batch)
    if not torch.equal(again, outputs):
        raise ExportError(f"{factory}: module gives other outputs for the same batch: draw nothing in evaluation mode.")
    alone = _run(made.module, {name: value[:1] for name, value in made.batch.items()})
    scale = max(float(outputs.abs().max()), 1.0)
    if alone.shape != outputs[:1].shape or float((alone - outputs[:1]).abs().max()) > 1e-4 * scale:
        raise ExportError(
            f"{factory}: module gives a row other outputs when it is alone: let no row depend on others (attention "
            "may need batch_first=True)."
        )


def _refuse(factory: str, reasons: Iterator[str]) -> None:
    """Raises ExportError with the first reason; what comes after it need not make sense, and is not asked for.

    The checks take Any: what a factory gives may be anything, whatever ``CustomModel`` declares.
    """
    for reason in reasons:
        raise ExportError(f"{factory}: {reason}.")


def _module(made: Any) -> Iterator[str]:
    if not isinstance(made.module, nn.Module):
        yield f"module is {type(made.module).__name__}, not a torch module"
    for name, value in made.module.named_parameters():
        if value.dtype != torch.float32 or value.device.type != "cpu":
            yield f"parameter {name} of module is {_dtype(value)} on {value.device}: call .float() and .cpu() first"


def _loss(made: Any) -> Iterator[str]:
    if made.loss not in list(Loss):
        yield f"loss is {made.loss!r}, not one of {', '.join(Loss)}"
    if made.metric is not None and made.metric not in Loss(made.loss).metrics:
        known = ", ".join(Loss(made.loss).metrics)
        yield f"metric is {made.metric!r}, for a {made.loss} there is {known}"


def _batch(made: Any) -> Iterator[str]:
    if not isinstance(made.batch, Mapping) or not made.batch:
        yield "batch is no dictionary of named tensors"
    rows = 0
    for name, value in made.batch.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            yield f"batch has an input named {name!r}: use a name such as x; {', '.join(sorted(RESERVED))} are taken"
        if not isinstance(value, Tensor):
            yield f"batch[{name!r}] is {type(value).__name__}, not a tensor"
        if _dtype(value) not in DTYPES:
            yield f"batch[{name!r}] is {_dtype(value)}, not one of {', '.join(DTYPES)}"
        if value.ndim == 0 or value.shape[0] != (rows := rows or value.shape[0]) or min(value.shape) == 0:
            yield f"batch[{name!r}] is {list(value.shape)}: give every input the same number of rows as its first axis"
        if rows < 2:
            yield f"batch[{name!r}] has {rows} row: give at least 2"
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            yield f"batch[{name!r}] holds a value that is not finite"


def _dynamic(made: Any) -> Iterator[str]:
    if not isinstance(made.dynamic, Mapping) or not all(isinstance(axes, Mapping) for axes in made.dynamic.values()):
        yield "dynamic is no dictionary from input to axis to name, such as {'x': {1: 'time'}}"
    sizes: dict[str, int] = {}
    for x, axes in made.dynamic.items():
        if x not in made.batch:
            yield f"dynamic names {x!r}, which the batch does not have"
        for axis, name in axes.items():
            last = made.batch[x].ndim - 1
            if axis not in range(1, last + 1):
                yield f"dynamic names axis {axis} of {x!r}, which has axes 1 to {last} beside its rows"
            if not isinstance(name, str) or not name.isidentifier() or name == BATCH:
                yield f"dynamic calls axis {axis} of {x!r} {name!r}: use a name such as time, and not {BATCH!r}"
            size = made.batch[x].shape[axis]
            if sizes.setdefault(name, size) != size:
                yield f"axis {name!r} is {sizes[name]} and {size} in the example batch: give it one size"


def _longest(made: Any) -> Iterator[str]:
    if not isinstance(made.longest, Mapping):
        yield "longest is no dictionary from axis name to size"
    axes = {name for names_of in made.dynamic.values() for name in names_of.values()}
    for name, size in made.longest.items():
        if name not in axes:
            yield f"longest names {name!r}, which dynamic does not have"
        if not isinstance(size, int) or size < LEAST:
            yield f"longest[{name!r}] is {size!r}, not a number from {LEAST} on"


def _patterns(made: Any) -> Iterator[str]:
    yield from _not_strings("targets", made.targets)
    yield from _not_strings("saved", made.saved)


def _label_names(made: Any) -> Iterator[str]:
    yield from _not_strings("label_names", made.label_names)
    if len(set(made.label_names)) < len(made.label_names):
        yield "label_names holds a name twice"
    if made.label_names and made.loss == Loss.MEAN_SQUARED_ERROR:
        yield f"label_names mean nothing for a {made.loss}"


def _not_strings(part: str, value: object) -> Iterator[str]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(entry, str) for entry in value):
        yield f"{part} is {value!r}, not a tuple of strings"


def _run(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())
    try:
        with torch.no_grad(), without_fast_paths():
            output: Any = module(**batch)
    except Exception as error:  # whatever the user's code raises
        raise ExportError(
            f"The module fails on {shapes} ({describe(error)}): correct module, batch or dynamic."
        ) from error
    outputs: object = logits_of(output)
    if not isinstance(outputs, Tensor):
        raise ExportError(f"The module returns {type(output).__name__} for {shapes}: return one tensor.")
    return outputs


def _outputs(loss: Loss, outputs: Tensor, rows: int) -> Iterator[str]:
    seen = f"module returns {_dtype(outputs)} {list(outputs.shape)} for {rows} rows"
    if outputs.dtype != torch.float32 or outputs.ndim == 0 or outputs.shape[0] != rows:
        yield f"{seen}: return float32 with the rows first"
    fits = {Loss.CROSS_ENTROPY: outputs.ndim == 2, Loss.TOKEN_CROSS_ENTROPY: outputs.ndim > 2}
    if not fits.get(loss, True) or (loss in fits and outputs.shape[-1] < 2):
        yield f"{seen}: return {AXES[loss]} with two classes or more for {loss}"
    if not bool(torch.isfinite(outputs).all()):
        yield f"{seen}, not all finite"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
