"""The forward pass of an adapted torch model as an ONNX graph whose trainables are inputs."""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor, nn
from torch.func import functional_call

from export.plain_attention import PlainAttention
from export.recipe import logits_of
from ravan.errors import ExportError
from ravan.inputs import BATCH, LEAST
from ravan.runtime.names import LOGITS
from ravan.spec import AdapterSpec
from ravan.torch import named_trainables

OPSET = 20  # what onnxruntime 1.19.2 and newer run, with Gelu as one operator
IR_VERSION = 10  # the newest that onnxruntime 1.19.2 reads
LEAST_ONNXRUNTIME = "1.19.2"  # make test-matrix holds it to the same losses as the newest
Axes = Mapping[str, Mapping[int, str]]
"""Of every batch input, the names of its dynamic axes."""


class _OfBatch(nn.Module):
    """The model's logits as a function of the batch."""

    def __init__(self, model: nn.Module, inputs: Iterable[str]) -> None:
        super().__init__()
        self.model = model
        self._inputs = list(inputs)

    def forward(self, *batch: Tensor) -> Tensor:
        return self._logits({}, batch)

    def _logits(self, values: dict[str, Tensor], batch: Sequence[Tensor]) -> Tensor:
        with PlainAttention():
            return logits_of(functional_call(self.model, values, (), dict(zip(self._inputs, batch, strict=True))))


class _OfTrainables(_OfBatch):
    """The same of trainables and batch: the exporter can't fold what is an input into constants."""

    def __init__(self, model: nn.Module, inputs: Iterable[str], trainables: Iterable[str]) -> None:
        super().__init__(model, inputs)
        self._trainables = list(trainables)

    def forward(self, trainables: tuple[Tensor, ...], *batch: Tensor) -> Tensor:  # type: ignore[override]
        return self._logits(dict(zip(self._trainables, trainables, strict=True)), batch)


def export_forward(
    model: nn.Module, spec: AdapterSpec, batch: Mapping[str, Tensor], axes: Axes, longest: Mapping[str, int]
) -> ir.Model:
    """Exports logits as a function of the trainables (inputs named as the parameters) and the batch.

    The batch's dynamic ``axes`` are "batch" and those of ``longest``, which says how far each goes.

    Raises:
        ExportError: torch can't express the model in ONNX; names the operator or module as torch reports it.
    """
    trainables = named_trainables(model, spec)
    values = tuple(parameter.detach() for parameter in trainables.values())
    exported = _export(
        _OfTrainables(model, batch, trainables),
        (values, *batch.values()),
        (tuple({} for _ in values), _dynamic(batch, axes, longest)),
        [*trainables, *batch],
    )
    passes.ShapeInferencePass()(exported)
    return exported


def export_plain(
    model: nn.Module, batch: Mapping[str, Tensor], axes: Axes, longest: Mapping[str, int], path: Path
) -> None:
    """Writes the model as it is, batch in and logits out, to ``path``, its weights beside it in ``path``.data."""
    dynamic = (_dynamic(batch, axes, longest),)
    exported = _export(_OfBatch(model, batch), tuple(batch.values()), dynamic, list(batch))
    passes.ClearMetadataAndDocStringPass()(exported)
    ir.save(exported, path, external_data=f"{path.name}.data")


def _dynamic(batch: Iterable[str], axes: Axes, longest: Mapping[str, int]) -> tuple[dict[int, Any], ...]:
    """Every input's axes with what they may range over."""
    sizes = {name: torch.export.Dim(name, min=LEAST, max=max(size, LEAST + 1)) for name, size in longest.items()}
    sizes[BATCH] = torch.export.Dim(BATCH, min=1, max=4096)
    return tuple({axis: sizes[name] for axis, name in axes[value].items()} for value in batch)


def _export(wrapped: nn.Module, args: tuple[Any, ...], dynamic: tuple[Any, ...], names: list[str]) -> ir.Model:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                wrapped.eval(),
                args,
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                dynamic_shapes=dynamic,
                input_names=names,
                output_names=[LOGITS],
            )
    except Exception as error:  # the exporter raises whatever the model's code or its own passes raise
        raise ExportError(f"torch can't export the model to ONNX: {_first_line(error)}.") from error
    assert program is not None
    exported: ir.Model = program.model
    if exported.opset_imports.get("", 0) != OPSET or len(exported.opset_imports) > 1 or exported.functions:
        raise ExportError(f"The model needs operators outside ONNX opset {OPSET}: replace the module that uses them.")
    exported.ir_version, exported.producer_name = IR_VERSION, "ravan-fl"
    return exported


def _first_line(error: BaseException) -> str:
    """The most telling line of an exporter's error: the cause's first, without torch's own advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
