from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WireFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WIRE_FORMAT_UNSPECIFIED: _ClassVar[WireFormat]
    WIRE_FORMAT_FP32: _ClassVar[WireFormat]
    WIRE_FORMAT_FP16: _ClassVar[WireFormat]
    WIRE_FORMAT_INT8: _ClassVar[WireFormat]

class WaitReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_REASON_UNSPECIFIED: _ClassVar[WaitReason]
    WAIT_REASON_NO_RUN: _ClassVar[WaitReason]
    WAIT_REASON_NOT_SELECTED: _ClassVar[WaitReason]
    WAIT_REASON_RUN_PAUSED: _ClassVar[WaitReason]
    WAIT_REASON_RUN_FINISHED: _ClassVar[WaitReason]

class Optimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPTIMIZER_UNSPECIFIED: _ClassVar[Optimizer]
    OPTIMIZER_ADAMW: _ClassVar[Optimizer]
    OPTIMIZER_SGD: _ClassVar[Optimizer]

class HeadScoring(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_SCORING_UNSPECIFIED: _ClassVar[HeadScoring]
    HEAD_SCORING_RANDOM: _ClassVar[HeadScoring]
    HEAD_SCORING_WEIGHT: _ClassVar[HeadScoring]
    HEAD_SCORING_GRADIENT: _ClassVar[HeadScoring]

class HeadSpread(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_SPREAD_UNSPECIFIED: _ClassVar[HeadSpread]
    HEAD_SPREAD_PER_LAYER: _ClassVar[HeadSpread]
    HEAD_SPREAD_ACROSS_LAYERS: _ClassVar[HeadSpread]
    HEAD_SPREAD_TOP_LAYERS: _ClassVar[HeadSpread]
WIRE_FORMAT_UNSPECIFIED: WireFormat
WIRE_FORMAT_FP32: WireFormat
WIRE_FORMAT_FP16: WireFormat
WIRE_FORMAT_INT8: WireFormat
WAIT_REASON_UNSPECIFIED: WaitReason
WAIT_REASON_NO_RUN: WaitReason
WAIT_REASON_NOT_SELECTED: WaitReason
WAIT_REASON_RUN_PAUSED: WaitReason
WAIT_REASON_RUN_FINISHED: WaitReason
OPTIMIZER_UNSPECIFIED: Optimizer
OPTIMIZER_ADAMW: Optimizer
OPTIMIZER_SGD: Optimizer
HEAD_SCORING_UNSPECIFIED: HeadScoring
HEAD_SCORING_RANDOM: HeadScoring
HEAD_SCORING_WEIGHT: HeadScoring
HEAD_SCORING_GRADIENT: HeadScoring
HEAD_SPREAD_UNSPECIFIED: HeadSpread
HEAD_SPREAD_PER_LAYER: HeadSpread
HEAD_SPREAD_ACROSS_LAYERS: HeadSpread
HEAD_SPREAD_TOP_LAYERS: HeadSpread

class CheckInRequest(_message.Message):
    __slots__ = ("device_id", "name", "capabilities", "hold_seconds")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    HOLD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    name: str
    capabilities: Capabilities
    hold_seconds: float
    def __init__(self, device_id: _Optional[str] = ..., name: _Optional[str] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ..., hold_seconds: _Optional[float] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("cores", "memory_bytes", "machine", "software", "head_budget", "wire_formats", "head_spreads", "available_memory", "step_times")
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    HEAD_BUDGET_FIELD_NUMBER: _ClassVar[int]
    WIRE_FORMATS_FIELD_NUMBER: _ClassVar[int]
    HEAD_SPREADS_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MEMORY_FIELD_NUMBER: _ClassVar[int]
    STEP_TIMES_FIELD_NUMBER: _ClassVar[int]
    cores: int
    memory_bytes: int
    machine: str
    software: str
    head_budget: float
    wire_formats: _containers.RepeatedScalarFieldContainer[WireFormat]
    head_spreads: _containers.RepeatedScalarFieldContainer[HeadSpread]
    available_memory: int
    step_times: _containers.RepeatedCompositeFieldContainer[StepTime]
    def __init__(self, cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., machine: _Optional[str] = ..., software: _Optional[str] = ..., head_budget: _Optional[float] = ..., wire_formats: _Optional[_Iterable[_Union[WireFormat, str]]] = ..., head_spreads: _Optional[_Iterable[_Union[HeadSpread, str]]] = ..., available_memory: _Optional[int] = ..., step_times: _Optional[_Iterable[_Union[StepTime, _Mapping]]] = ...) -> None: ...

class StepTime(_message.Message):
    __slots__ = ("bundle_id", "depth", "seconds_per_example")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    SECONDS_PER_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    depth: float
    seconds_per_example: float
    def __init__(self, bundle_id: _Optional[str] = ..., depth: _Optional[float] = ..., seconds_per_example: _Optional[float] = ...) -> None: ...

class CheckInResponse(_message.Message):
    __slots__ = ("task", "wait")
    TASK_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    task: Task
    wait: Wait
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ..., wait: _Optional[_Union[Wait, _Mapping]] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("min_seconds", "max_seconds", "reason")
    MIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    min_seconds: float
    max_seconds: float
    reason: WaitReason
    def __init__(self, min_seconds: _Optional[float] = ..., max_seconds: _Optional[float] = ..., reason: _Optional[_Union[WaitReason, str]] = ...) -> None: ...

class Binding(_message.Message):
    __slots__ = ("run_id", "round", "bundle_id", "adapter_spec", "base_adapter")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SPEC_FIELD_NUMBER: _ClassVar[int]
    BASE_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    bundle_id: str
    adapter_spec: str
    base_adapter: str
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., bundle_id: _Optional[str] = ..., adapter_spec: _Optional[str] = ..., base_adapter: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("binding", "adapter_size", "plan", "deadline_seconds", "bundle_signature", "head_budget")
    BINDING_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SIZE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    HEAD_BUDGET_FIELD_NUMBER: _ClassVar[int]
    binding: Binding
    adapter_size: int
    plan: TrainingPlan
    deadline_seconds: float
    bundle_signature: str
    head_budget: float
    def __init__(self, binding: _Optional[_Union[Binding, _Mapping]] = ..., adapter_size: _Optional[int] = ..., plan: _Optional[_Union[TrainingPlan, _Mapping]] = ..., deadline_seconds: _Optional[float] = ..., bundle_signature: _Optional[str] = ..., head_budget: _Optional[float] = ...) -> None: ...

class TrainingPlan(_message.Message):
    __slots__ = ("local_steps", "batch_size", "optimizer", "learning_rate", "saved_learning_rate", "weight_decay", "momentum", "clip_norm", "head_scoring", "seed", "wire_format", "head_spread")
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    SAVED_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORM_FIELD_NUMBER: _ClassVar[int]
    HEAD_SCORING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WIRE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    HEAD_SPREAD_FIELD_NUMBER: _ClassVar[int]
    local_steps: int
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    saved_learning_rate: float
    weight_decay: float
    momentum: float
    clip_norm: float
    head_scoring: HeadScoring
    seed: int
    wire_format: WireFormat
    head_spread: HeadSpread
    def __init__(self, local_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., optimizer: _Optional[_Union[Optimizer, str]] = ..., learning_rate: _Optional[float] = ..., saved_learning_rate: _Optional[float] = ..., weight_decay: _Optional[float] = ..., momentum: _Optional[float] = ..., clip_norm: _Optional[float] = ..., head_scoring: _Optional[_Union[HeadScoring, str]] = ..., seed: _Optional[int] = ..., wire_format: _Optional[_Union[WireFormat, str]] = ..., head_spread: _Optional[_Union[HeadSpread, str]] = ...) -> None: ...

class FetchBundleRequest(_message.Message):
    __slots__ = ("device_id", "bundle_id", "file", "offset")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    bundle_id: str
    file: str
    offset: int
    def __init__(self, device_id: _Optional[str] = ..., bundle_id: _Optional[str] = ..., file: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchBundleResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class FetchAdapterRequest(_message.Message):
    __slots__ = ("device_id", "binding", "offset")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    binding: Binding
    offset: int
    def __init__(self, device_id: _Optional[str] = ..., binding: _Optional[_Union[Binding, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchAdapterResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class AskUploadRequest(_message.Message):
    __slots__ = ("device_id", "binding", "sha256")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    binding: Binding
    sha256: str
    def __init__(self, device_id: _Optional[str] = ..., binding: _Optional[_Union[Binding, _Mapping]] = ..., sha256: _Optional[str] = ...) -> None: ...

class AskUploadResponse(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: int
    def __init__(self, held: _Optional[int] = ...) -> None: ...

class UploadUpdateRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("device_id", "binding", "sha256", "size", "report", "offset")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    binding: Binding
    sha256: str
    size: int
    report: TrainingReport
    offset: int
    def __init__(self, device_id: _Optional[str] = ..., binding: _Optional[_Union[Binding, _Mapping]] = ..., sha256: _Optional[str] = ..., size: _Optional[int] = ..., report: _Optional[_Union[TrainingReport, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class TrainingReport(_message.Message):
    __slots__ = ("examples", "steps", "first_loss", "last_loss", "seconds", "heads_per_layer")
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FIRST_LOSS_FIELD_NUMBER: _ClassVar[int]
    LAST_LOSS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    HEADS_PER_LAYER_FIELD_NUMBER: _ClassVar[int]
    examples: int
    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    heads_per_layer: int
    def __init__(self, examples: _Optional[int] = ..., steps: _Optional[int] = ..., first_loss: _Optional[float] = ..., last_loss: _Optional[float] = ..., seconds: _Optional[float] = ..., heads_per_layer: _Optional[int] = ...) -> None: ...

class UploadUpdateResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: str
    def __init__(self, receipt: _Optional[str] = ...) -> None: ...

class ReportFailureRequest(_message.Message):
    __slots__ = ("device_id", "binding", "code", "reason")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    binding: Binding
    code: str
    reason: str
    def __init__(self, device_id: _Optional[str] = ..., binding: _Optional[_Union[Binding, _Mapping]] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReportFailureResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
