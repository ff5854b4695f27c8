"""What makes a device, and what there is on its machine."""

from dataclasses import dataclass

from edge.job import DataOptions
from edge.runtimes import Runtimes
from protos.ravan.v1 import fleet_pb2 as pb


@dataclass(frozen=True)
class DeviceOptions:
    """What makes one device: its name, data, share of the heads, and how it takes part.

    A ``head_budget`` of None follows from the device's strength. A key older than ``key_days`` is replaced, 0 for
    never.
    """

    name: str
    data: DataOptions
    head_budget: float | None = None
    until_finished: bool = False
    key_days: int = 0


@dataclass(frozen=True)
class Equipment:
    """What the client found on its machine before it started, for it loads neither numpy nor onnxruntime.

    Attributes:
        cores: of the machine.
        memory_bytes: of the machine.
        onnxruntime: its version.
        software: what there is, for the operator's list of devices.
        wire_formats: in which updates can be coded, as numbers of ``pb.WireFormat``.
        head_spreads: how heads can be spread over layers, as numbers of ``pb.HeadSpread``.
        runtimes: what trains.
    """

    cores: int
    memory_bytes: int
    onnxruntime: str
    software: str
    wire_formats: tuple[pb.WireFormat, ...]
    head_spreads: tuple[pb.HeadSpread, ...]
    runtimes: Runtimes
