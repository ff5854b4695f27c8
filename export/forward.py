"""The forward pass of an adapted torch model as an ONNX graph whose trainables are inputs."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ravan.errors import ExportError
from ravan.runtime.names import LOGITS
from ravan.spec import AdapterSpec
from ravan.torch import named_trainables

OPSET = 20  # what onnxruntime 1.19.2 and newer run, with Gelu as one operator
IR_VERSION = 10  # the newest that onnxruntime 1.19.2 reads


class _WithTrainables(nn.Module):
    """The model as a function of its trainables and batch, so that the exporter can't fold them into constants."""

    def __init__(self, model: nn.Module, trainables: list[str], inputs: list[str]) -> None:
        super().__init__()
        self.model = model
        self._trainables = trainables
        self._inputs = inputs

    def forward(self, trainables: tuple[Tensor, ...], batch: tuple[Tensor, ...]) -> Tensor:
        values = dict(zip(self._trainables, trainables, strict=True))
        out = functional_call(self.model, values, (), dict(zip(self._inputs, batch, strict=True)))
        logits: Tensor = out.logits if hasattr(out, LOGITS) else out
        return logits


def export_forward(model: nn.Module, spec: AdapterSpec, batch: Mapping[str, Tensor], longest: int) -> ir.Model:
    """Exports logits as a function of the trainables (inputs named as the parameters) and the batch.

    Every batch input is [batch, length, ...] with both axes dynamic, ``length`` up to ``longest``.

    Raises:
        ExportError: torch can't express the model in ONNX; names the operator or module as torch reports it.
    """
    trainables = named_trainables(model, spec)
    wrapped = _WithTrainables(model.eval(), list(trainables), list(batch)).eval()
    exported = _export(wrapped, tuple(p.detach() for p in trainables.values()), trainables, batch, longest)
    passes.ShapeInferencePass()(exported)
    return exported


def export_plain(model: nn.Module, batch: Mapping[str, Tensor], longest: int, path: Path) -> None:
    """Writes the model as it is, batch in and logits out, to one ONNX file (beside it ``path``.data if it is large)."""
    exported = _export(_WithTrainables(model.eval(), [], list(batch)).eval(), (), (), batch, longest)
    passes.ClearMetadataAndDocStringPass()(exported)
    ir.save(exported, path, external_data=f"{path.name}.data")


def _export(
    wrapped: nn.Module,
    trainables: tuple[Tensor, ...],
    names: Iterable[str],
    batch: Mapping[str, Tensor],
    longest: int,
) -> ir.Model:
    axes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=longest)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                wrapped,
                (trainables, tuple(batch.values())),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                dynamic_shapes=(tuple({} for _ in trainables), tuple(axes for _ in batch)),
                input_names=[*names, *batch],
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
