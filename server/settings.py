"""Settings of the server process and of a run."""

import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, ConfigDict, Field, NonNegativeInt, model_validator
from pydantic_settings import SettingsConfigDict

from ravan.cli.settings import Settings
from ravan.errors import SettingsError
from ravan.heads import Scoring
from ravan.inputs import Metric
from ravan.rpc.plan import OptimizerName, TrainingPlan
from ravan.rules import RuleName
from ravan.spread import Spread
from ravan.wire import WireFormat
from server.aggregation import AggregationOptions
from server.place import DEFAULT_STATE, Place

DEFAULT_LISTEN = "127.0.0.1:7071"


Count = Annotated[int, Field(gt=0, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]


StateSetting = Annotated[str, BeforeValidator(str)]
"""As given; a folder's path will do."""


def _state() -> str:
    return os.environ.get("RAVAN_SERVER_STATE", DEFAULT_STATE)


class Weighting(StrEnum):
    """How much a client counts in the mean."""

    UNIFORM = "uniform"
    EXAMPLES = "examples"


class Mode(StrEnum):
    """When devices train, and what makes the next adapter."""

    SYNC = "sync"
    ASYNC = "async"


_MEANINGLESS = {
    Mode.SYNC: ("buffer", "max_staleness"),
    Mode.ASYNC: ("clients_per_round", "over_select", "min_updates", "min_devices", "deadline"),
}
"""Settings that say nothing in a mode."""


class RunOptions(AggregationOptions):
    """What a run does; kept with the run, so that a restarted server goes on the same way."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rounds: Count = Field(20, description="Rounds to publish.")
    mode: Mode = Field(Mode.SYNC, description="sync: in rounds; async: each device at its own pace, into a buffer.")
    buffer: Count = Field(10, description="Of mode async: updates that make the next adapter.")
    max_staleness: CountOrZero = Field(
        10, description="Of mode async: an update is refused if more adapters were published since it began."
    )
    clients_per_round: Count = Field(3, description="Updates a round waits for.")
    over_select: CountOrZero = Field(0, description="Devices selected beyond that, in case some never answer.")
    min_updates: Count = Field(1, description="Updates without which a round is abandoned at its deadline.")
    min_devices: CountOrZero = Field(0, description="Devices that must be present before a round selects.")
    deadline: float = Field(600, gt=0, description="Seconds a round waits for updates.")
    weighting: Weighting = Field(Weighting.UNIFORM, description="Every client counts alike, or by its examples.")
    evaluate_every: Count = Field(1, description="Evaluate every so many rounds, and after the last.")
    metric: Metric | None = Field(
        None, description="What makes a round the best: accuracy, perplexity or loss; by default what suits the bundle."
    )
    evaluation_batch: Count = Field(32, description="Examples of an evaluation batch.")
    keep_updates: Count = Field(2, description="Rounds whose updates are kept on disk.")
    poll_min: float = Field(2, gt=0, description="Shortest wait between two check-ins, seconds.")
    poll_max: float = Field(6, gt=0, description="Longest wait between two check-ins, seconds.")
    local_steps: Count = Field(10, description="Mini-batches a client trains.")
    batch_size: Count = Field(16, description="Examples of a mini-batch.")
    optimizer: OptimizerName = Field(OptimizerName.ADAMW, description="adamw or sgd.")
    learning_rate: float = Field(2e-3, gt=0, description="For H and s.")
    saved_learning_rate: float = Field(2e-3, gt=0, description="For modules trained whole.")
    learning_rate_decay: float = Field(1.0, gt=0, le=1, description="Factor on both rates from round to round.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of AdamW.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    clip_norm: float = Field(1.0, ge=0, description="Largest norm of the whole gradient; 0 for no clipping.")
    head_scoring: Scoring = Field(
        Scoring.GRADIENT, description="How weak devices pick heads: random, weight, gradient."
    )
    head_spread: Spread = Field(
        Spread.PER_LAYER,
        description="Where a device's budget of heads goes: per-layer (the paper's, as many in each), across-layers "
        "(the best of all), or top-layers (all of the last layers: saves weak devices time and memory).",
    )
    wire: WireFormat = Field(
        WireFormat.FP32, description="Values of uploads: fp32, or their change in fp16 (half) or int8 (a quarter)."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of selection, batches and random choices.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.poll_max < self.poll_min:
            raise ValueError("poll_max must not be below poll_min")
        if self.min_updates > self.clients_per_round:
            raise ValueError("min_updates must not exceed clients_per_round")
        if self.weighting is Weighting.EXAMPLES and self.aggregation is not RuleName.MEAN:
            raise SettingsError(
                f"--weighting examples trusts what devices report, which {self.aggregation} must not: leave it out."
            )
        for name in _MEANINGLESS[self.mode]:
            if getattr(self, name) != RunOptions.model_fields[name].default:
                raise SettingsError(f"--{name.replace('_', '-')} means nothing in --mode {self.mode}: leave it out.")
        if self.is_async:
            self.check_clients(self.buffer, "--buffer")
        else:
            self.check_clients(self.min_updates, "--min-updates and --clients-per-round")
        return self

    @property
    def is_async(self) -> bool:
        """Whether devices train at their own pace."""
        return self.mode is Mode.ASYNC

    def plan(self, round_number: int = 1) -> TrainingPlan:
        """What a client of this round is told; the learning rates decay from round to round."""
        plan = TrainingPlan(**{name: getattr(self, name) for name in TrainingPlan.__dataclass_fields__})
        factor = self.learning_rate_decay ** (round_number - 1)
        return replace(
            plan,
            learning_rate=factor * plan.learning_rate,
            saved_learning_rate=factor * plan.saved_learning_rate,
        )


class RunSettings(Settings, RunOptions):
    """Settings of ``ravan-server create``: a bundle, held-out data and the options of a run."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_RUN_", frozen=True, extra="forbid", allow_inf_nan=False)

    bundle: Path = Field(description="Folder of the training bundle.")
    evaluation: Path | None = Field(None, description="Held-out examples, in any form that devices read.")

    @property
    def options(self) -> RunOptions:
        """The options alone."""
        return RunOptions(**self.model_dump(exclude={"bundle", "evaluation"}))


class CreateSettings(RunSettings):
    """``RunSettings`` and where the server is."""

    state: StateSetting = Field(default_factory=_state, description="The server's state, or its folder beside one.")
    control: str = Field(
        default_factory=lambda: os.environ.get("RAVAN_SERVER_CONTROL", ""),
        description="The server's control address; a socket in the state folder by default.",
    )


class ServeSettings(Settings):
    """Settings of ``ravan-server serve``."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_SERVER_", frozen=True, extra="forbid")

    state: StateSetting = Field(
        DEFAULT_STATE,
        description="Folder for everything the server keeps, or postgresql://USER@HOST/DATABASE to share with others.",
    )
    folder: Path | None = Field(
        None, description=f"Beside a database, folder for what is this server's own; by default {DEFAULT_STATE}."
    )
    lease: float = Field(
        5, ge=0.5, le=300, description="Beside a database, seconds until another server does a dead one's work."
    )
    listen: str = Field(DEFAULT_LISTEN, description="Address for devices, host:port.")
    control: str = Field(
        "",
        description="Address for the operator; a socket inside the state folder by default, else signed calls alone.",
    )
    insecure: bool = Field(
        default=False, description="No TLS, and any program on this machine is let in as a device; on loopback alone."
    )
    clock_skew: float = Field(300, gt=0, le=86_400, description="Seconds that a device's clock may be off.")
    threads: NonNegativeInt = Field(0, description="Threads of an evaluation; 0 for all cores.")
    until_finished: bool = Field(default=False, description="Exit once a run has finished and devices know.")

    @property
    def place(self) -> Place:
        """Where everything is kept.

        Raises:
            SettingsError: there can be no such place.
        """
        return Place.of(self.state, self.folder)
