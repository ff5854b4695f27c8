"""What the server's state holds, as plain values."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from ravan.norms import Norms
from ravan.rpc.vouching import Archive
from ravan.runtime.session import Evaluation
from server.settings import RunOptions


class RunState(StrEnum):
    """Where a run stands."""

    ACTIVE = "active"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"

    @property
    def ended(self) -> bool:
        """Whether nothing can happen in the run any more."""
        return self in (RunState.STOPPED, RunState.FINISHED)


class RoundState(StrEnum):
    """Where a round stands: selecting -> collecting -> aggregating -> published, or abandoned."""

    SELECTING = "selecting"
    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    PUBLISHED = "published"
    ABANDONED = "abandoned"


class AssignmentState(StrEnum):
    """What came of a device's part in a round."""

    ASSIGNED = "assigned"
    RECEIVED = "received"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """One federated run; ``adapter`` is the sha256 of the current global adapter's blob."""

    run_id: str
    state: RunState
    bundle_id: str
    bundle_folder: str
    model: str
    trainable_parameters: int
    evaluation_file: str | None
    options: RunOptions
    adapter: str
    created_at: float
    initial: Evaluation | None = None
    bundle_signature: str | None = None


@dataclass(frozen=True)
class Round:
    """One round of a run; times are Unix seconds, adapters and the optimizer's memory after it sha256 of blobs.

    A bound of None takes any norm.
    """

    run_id: str
    number: int
    state: RoundState
    base_adapter: str
    opened_at: float
    deadline: float | None = None
    closed_at: float | None = None
    adapter: str | None = None
    evaluation: Evaluation | None = None
    head_bound: float | None = None
    saved_bound: float | None = None
    optimizer_memory: str | None = None

    @property
    def bound(self) -> Norms:
        """The largest norms of an update that the round takes."""
        head, saved = (math.inf if bound is None else bound for bound in (self.head_bound, self.saved_bound))
        return Norms(head, saved)


@dataclass(frozen=True)
class Device:
    """What is known of a device; ``bytes_down`` counts its bundle downloads."""

    device_id: str
    name: str
    last_seen: float
    cores: int = 0
    memory_bytes: int = 0
    machine: str = ""
    software: str = ""
    head_budget: float = 1.0
    bytes_down: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Holder:
    """An enrolled device and the public key (hex) it is known by; times are Unix seconds.

    One whose owner ended its part has ``left_at`` beside ``revoked_at``.
    """

    device_id: str
    public_key: str
    name: str
    enrolled_at: float
    revoked_at: float | None = None
    left_at: float | None = None


@dataclass(frozen=True)
class Nonce:
    """A number used once, by the holder of a key; it can be forgotten once calls signed with it are too old."""

    public_key: str
    nonce: str
    expires_at: float


@dataclass(frozen=True)
class Release:
    """A version of the client that is offered to a kind of machine, signed by the operator (hex)."""

    archive: Archive
    signature: str


@dataclass(frozen=True)
class LocalReport:
    """What a device says of its local run."""

    examples: int = 0
    steps: int = 0
    first_loss: float = 0.0
    last_loss: float = 0.0
    seconds: float = 0.0
    heads_per_layer: int = 0


@dataclass(frozen=True)
class Assignment:
    """A device's part in a round; ``sha256`` names the update's blob once it is received.

    ``head_budget`` is the share of the heads that its update may carry, None in a part from before there was one.

    In an asynchronous run ``round`` is the one whose base the device began from, ``sequence`` the place of its update
    in the order of receipt, and ``folded_in`` the round that took it out of the buffer.
    """

    run_id: str
    round: int
    device_id: str
    state: AssignmentState = AssignmentState.ASSIGNED
    bytes_down: int = 0
    bytes_up: int = 0
    sha256: str | None = None
    report: LocalReport = LocalReport()
    failure: str = ""
    head_norm: float | None = None
    saved_norm: float | None = None
    sequence: int | None = None
    folded_in: int | None = None
    head_budget: float | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """Run, round and device: a device has one part for each."""
        return self.run_id, self.round, self.device_id

    @property
    def counts_in(self) -> int | None:
        """The round whose adapter the update makes; None while an asynchronous run has not folded it yet."""
        return self.round if self.sequence is None else self.folded_in

    @property
    def receipt(self) -> str:
        """Names this part; the same for ever."""
        return f"{self.run_id}/{self.round}/{self.device_id}"

    def received(self, sha256: str, size: int, report: LocalReport) -> "Assignment":
        """This part once its update is counted."""
        return replace(self, state=AssignmentState.RECEIVED, sha256=sha256, bytes_up=size, report=report)

    def measured(self, norms: Norms) -> "Assignment":
        """This part once its update's norms are known."""
        return replace(self, head_norm=norms.head, saved_norm=norms.saved)

    @property
    def norms(self) -> Norms | None:
        """How far the update moved, if it was measured."""
        return None if self.head_norm is None or self.saved_norm is None else Norms(self.head_norm, self.saved_norm)
