"""The training plan as a dataclass, and its protobuf form."""

from dataclasses import dataclass
from enum import StrEnum

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.errors import SettingsError
from ravan.heads import Scoring
from ravan.spread import Spread
from ravan.wire import WireFormat


class OptimizerName(StrEnum):
    """Which optimizer a device runs on the flat vector."""

    ADAMW = "adamw"
    SGD = "sgd"


@dataclass(frozen=True)
class TrainingPlan:
    """One local run (paper section 4): S mini-batches, with an optimizer that starts afresh.

    Attributes:
        local_steps: mini-batches S.
        batch_size: examples of a mini-batch.
        learning_rate: for H and s.
        saved_learning_rate: for tensors that are trained whole.
        weight_decay: decoupled, for AdamW (arXiv 1711.05101).
        momentum: for SGD.
        clip_norm: largest norm of the whole gradient, 0 for no clipping.
        head_scoring: how a device with a small budget picks its heads.
        head_spread: where a device's budget of heads goes.
        seed: of batches and random choices, mixed with round and device.
        wire: how the values of the upload are coded.
    """

    local_steps: int = 10
    batch_size: int = 16
    optimizer: OptimizerName = OptimizerName.ADAMW
    learning_rate: float = 2e-3
    saved_learning_rate: float = 2e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float = 1.0
    head_scoring: Scoring = Scoring.GRADIENT
    head_spread: Spread = Spread.PER_LAYER
    seed: int = 0
    wire: WireFormat = WireFormat.FP32


_OPTIMIZERS = {OptimizerName.ADAMW: pb.OPTIMIZER_ADAMW, OptimizerName.SGD: pb.OPTIMIZER_SGD}
_SCORINGS = {
    Scoring.RANDOM: pb.HEAD_SCORING_RANDOM,
    Scoring.WEIGHT: pb.HEAD_SCORING_WEIGHT,
    Scoring.GRADIENT: pb.HEAD_SCORING_GRADIENT,
}
SPREADS = {
    Spread.PER_LAYER: pb.HEAD_SPREAD_PER_LAYER,
    Spread.ACROSS_LAYERS: pb.HEAD_SPREAD_ACROSS_LAYERS,
    Spread.TOP_LAYERS: pb.HEAD_SPREAD_TOP_LAYERS,
}
WIRE_FORMATS = {
    WireFormat.FP32: pb.WIRE_FORMAT_FP32,
    WireFormat.FP16: pb.WIRE_FORMAT_FP16,
    WireFormat.INT8: pb.WIRE_FORMAT_INT8,
}


def plan_to_proto(plan: TrainingPlan) -> pb.TrainingPlan:
    """The plan as it goes over the wire."""
    return pb.TrainingPlan(
        local_steps=plan.local_steps,
        batch_size=plan.batch_size,
        optimizer=_OPTIMIZERS[plan.optimizer],
        learning_rate=plan.learning_rate,
        saved_learning_rate=plan.saved_learning_rate,
        weight_decay=plan.weight_decay,
        momentum=plan.momentum,
        clip_norm=plan.clip_norm,
        head_scoring=_SCORINGS[plan.head_scoring],
        head_spread=SPREADS[plan.head_spread],
        seed=plan.seed,
        wire_format=WIRE_FORMATS[plan.wire],
    )


def plan_from_proto(message: pb.TrainingPlan) -> TrainingPlan:
    """The plan as it came over the wire.

    Raises:
        SettingsError: an optimizer, scoring or format this version does not know, or no steps at all.
    """
    optimizers = {value: name for name, value in _OPTIMIZERS.items()}
    scorings = {value: name for name, value in _SCORINGS.items()}
    if message.optimizer not in optimizers or message.head_scoring not in scorings:
        raise SettingsError("The server asks for an optimizer or head scoring unknown here: update ravan-fl.")
    formats = {value: name for name, value in WIRE_FORMATS.items()} | {pb.WIRE_FORMAT_UNSPECIFIED: WireFormat.FP32}
    if message.wire_format not in formats:
        raise SettingsError("The server asks for updates in a format unknown here: update ravan-fl.")
    spreads = {value: name for name, value in SPREADS.items()} | {pb.HEAD_SPREAD_UNSPECIFIED: Spread.PER_LAYER}
    if message.head_spread not in spreads:
        raise SettingsError("The server asks for heads to be spread in a way unknown here: update ravan-fl.")
    if not (message.local_steps and message.batch_size):
        raise SettingsError("The server's plan has no steps or empty batches: correct the run's settings.")
    return TrainingPlan(
        local_steps=message.local_steps,
        batch_size=message.batch_size,
        optimizer=optimizers[message.optimizer],
        learning_rate=message.learning_rate,
        saved_learning_rate=message.saved_learning_rate,
        weight_decay=message.weight_decay,
        momentum=message.momentum,
        clip_norm=message.clip_norm,
        head_scoring=scorings[message.head_scoring],
        head_spread=spreads[message.head_spread],
        seed=message.seed,
        wire=formats[message.wire_format],
    )
