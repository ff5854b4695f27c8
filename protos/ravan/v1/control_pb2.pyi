from protos.ravan.v1 import releases_pb2 as _releases_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_ACTIVE: _ClassVar[RunState]
    RUN_STATE_PAUSED: _ClassVar[RunState]
    RUN_STATE_STOPPED: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]

class AggregationRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGGREGATION_RULE_UNSPECIFIED: _ClassVar[AggregationRule]
    AGGREGATION_RULE_MEAN: _ClassVar[AggregationRule]
    AGGREGATION_RULE_CLIPPED_MEAN: _ClassVar[AggregationRule]
    AGGREGATION_RULE_MEDIAN: _ClassVar[AggregationRule]
    AGGREGATION_RULE_TRIMMED_MEAN: _ClassVar[AggregationRule]
    AGGREGATION_RULE_MULTI_KRUM: _ClassVar[AggregationRule]

class ServerOptimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVER_OPTIMIZER_UNSPECIFIED: _ClassVar[ServerOptimizer]
    SERVER_OPTIMIZER_FEDAVG: _ClassVar[ServerOptimizer]
    SERVER_OPTIMIZER_FEDAVGM: _ClassVar[ServerOptimizer]
    SERVER_OPTIMIZER_FEDADAM: _ClassVar[ServerOptimizer]
    SERVER_OPTIMIZER_FEDYOGI: _ClassVar[ServerOptimizer]

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_UNSPECIFIED: _ClassVar[Metric]
    METRIC_ACCURACY: _ClassVar[Metric]
    METRIC_PERPLEXITY: _ClassVar[Metric]
    METRIC_LOSS: _ClassVar[Metric]

class RoundState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUND_STATE_UNSPECIFIED: _ClassVar[RoundState]
    ROUND_STATE_SELECTING: _ClassVar[RoundState]
    ROUND_STATE_COLLECTING: _ClassVar[RoundState]
    ROUND_STATE_AGGREGATING: _ClassVar[RoundState]
    ROUND_STATE_PUBLISHED: _ClassVar[RoundState]
    ROUND_STATE_ABANDONED: _ClassVar[RoundState]
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_ACTIVE: RunState
RUN_STATE_PAUSED: RunState
RUN_STATE_STOPPED: RunState
RUN_STATE_FINISHED: RunState
AGGREGATION_RULE_UNSPECIFIED: AggregationRule
AGGREGATION_RULE_MEAN: AggregationRule
AGGREGATION_RULE_CLIPPED_MEAN: AggregationRule
AGGREGATION_RULE_MEDIAN: AggregationRule
AGGREGATION_RULE_TRIMMED_MEAN: AggregationRule
AGGREGATION_RULE_MULTI_KRUM: AggregationRule
SERVER_OPTIMIZER_UNSPECIFIED: ServerOptimizer
SERVER_OPTIMIZER_FEDAVG: ServerOptimizer
SERVER_OPTIMIZER_FEDAVGM: ServerOptimizer
SERVER_OPTIMIZER_FEDADAM: ServerOptimizer
SERVER_OPTIMIZER_FEDYOGI: ServerOptimizer
METRIC_UNSPECIFIED: Metric
METRIC_ACCURACY: Metric
METRIC_PERPLEXITY: Metric
METRIC_LOSS: Metric
ROUND_STATE_UNSPECIFIED: RoundState
ROUND_STATE_SELECTING: RoundState
ROUND_STATE_COLLECTING: RoundState
ROUND_STATE_AGGREGATING: RoundState
ROUND_STATE_PUBLISHED: RoundState
ROUND_STATE_ABANDONED: RoundState

class CreateRunRequest(_message.Message):
    __slots__ = ("settings_json", "bundle_signature")
    SETTINGS_JSON_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    settings_json: str
    bundle_signature: str
    def __init__(self, settings_json: _Optional[str] = ..., bundle_signature: _Optional[str] = ...) -> None: ...

class CreateRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class SetRunStateRequest(_message.Message):
    __slots__ = ("run_id", "state")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    state: RunState
    def __init__(self, run_id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ...) -> None: ...

class SetRunStateResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices", "refused")
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    refused: _containers.ScalarMap[str, int]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., refused: _Optional[_Mapping[str, int]] = ...) -> None: ...

class CreateTokensRequest(_message.Message):
    __slots__ = ("count", "valid_seconds")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALID_SECONDS_FIELD_NUMBER: _ClassVar[int]
    count: int
    valid_seconds: float
    def __init__(self, count: _Optional[int] = ..., valid_seconds: _Optional[float] = ...) -> None: ...

class CreateTokensResponse(_message.Message):
    __slots__ = ("tokens", "expires_at")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[str]
    expires_at: float
    def __init__(self, tokens: _Optional[_Iterable[str]] = ..., expires_at: _Optional[float] = ...) -> None: ...

class RevokeDeviceRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    def __init__(self, device_id: _Optional[str] = ...) -> None: ...

class RevokeDeviceResponse(_message.Message):
    __slots__ = ("device_id", "name")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    name: str
    def __init__(self, device_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ExportAdapterRequest(_message.Message):
    __slots__ = ("run_id", "best")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    best: bool
    def __init__(self, run_id: _Optional[str] = ..., best: bool = ...) -> None: ...

class ExportAdapterResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class SetReleaseRequest(_message.Message):
    __slots__ = ("release", "data")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    release: _releases_pb2.Release
    data: bytes
    def __init__(self, release: _Optional[_Union[_releases_pb2.Release, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class SetReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReleasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReleasesResponse(_message.Message):
    __slots__ = ("releases",)
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    releases: _containers.RepeatedCompositeFieldContainer[_releases_pb2.Release]
    def __init__(self, releases: _Optional[_Iterable[_Union[_releases_pb2.Release, _Mapping]]] = ...) -> None: ...

class WithdrawReleaseRequest(_message.Message):
    __slots__ = ("machine",)
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    machine: str
    def __init__(self, machine: _Optional[str] = ...) -> None: ...

class WithdrawReleaseResponse(_message.Message):
    __slots__ = ("release",)
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    release: _releases_pb2.Release
    def __init__(self, release: _Optional[_Union[_releases_pb2.Release, _Mapping]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "state", "bundle_id", "model", "trainable_parameters", "rounds_planned", "rounds_published", "initial", "best_round", "rounds", "created_at", "metric", "aggregation", "buffer", "max_staleness")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    BEST_ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    state: RunState
    bundle_id: str
    model: str
    trainable_parameters: int
    rounds_planned: int
    rounds_published: int
    initial: Evaluation
    best_round: int
    rounds: _containers.RepeatedCompositeFieldContainer[Round]
    created_at: float
    metric: Metric
    aggregation: Aggregation
    buffer: int
    max_staleness: int
    def __init__(self, run_id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., bundle_id: _Optional[str] = ..., model: _Optional[str] = ..., trainable_parameters: _Optional[int] = ..., rounds_planned: _Optional[int] = ..., rounds_published: _Optional[int] = ..., initial: _Optional[_Union[Evaluation, _Mapping]] = ..., best_round: _Optional[int] = ..., rounds: _Optional[_Iterable[_Union[Round, _Mapping]]] = ..., created_at: _Optional[float] = ..., metric: _Optional[_Union[Metric, str]] = ..., aggregation: _Optional[_Union[Aggregation, _Mapping]] = ..., buffer: _Optional[int] = ..., max_staleness: _Optional[int] = ...) -> None: ...

class Aggregation(_message.Message):
    __slots__ = ("rule", "attackers", "max_norm", "max_saved_norm", "max_norm_ratio", "optimizer", "learning_rate", "momentum", "beta2", "tau")
    RULE_FIELD_NUMBER: _ClassVar[int]
    ATTACKERS_FIELD_NUMBER: _ClassVar[int]
    MAX_NORM_FIELD_NUMBER: _ClassVar[int]
    MAX_SAVED_NORM_FIELD_NUMBER: _ClassVar[int]
    MAX_NORM_RATIO_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    rule: AggregationRule
    attackers: float
    max_norm: float
    max_saved_norm: float
    max_norm_ratio: float
    optimizer: ServerOptimizer
    learning_rate: float
    momentum: float
    beta2: float
    tau: float
    def __init__(self, rule: _Optional[_Union[AggregationRule, str]] = ..., attackers: _Optional[float] = ..., max_norm: _Optional[float] = ..., max_saved_norm: _Optional[float] = ..., max_norm_ratio: _Optional[float] = ..., optimizer: _Optional[_Union[ServerOptimizer, str]] = ..., learning_rate: _Optional[float] = ..., momentum: _Optional[float] = ..., beta2: _Optional[float] = ..., tau: _Optional[float] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("accuracy", "loss", "examples")
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    accuracy: float
    loss: float
    examples: int
    def __init__(self, accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., examples: _Optional[int] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("number", "state", "selected", "received", "failed", "bytes_up", "bytes_down", "evaluation", "seconds", "local_loss", "head_bound", "saved_bound", "staleness")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SELECTED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_LOSS_FIELD_NUMBER: _ClassVar[int]
    HEAD_BOUND_FIELD_NUMBER: _ClassVar[int]
    SAVED_BOUND_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    number: int
    state: RoundState
    selected: int
    received: int
    failed: int
    bytes_up: int
    bytes_down: int
    evaluation: Evaluation
    seconds: float
    local_loss: float
    head_bound: float
    saved_bound: float
    staleness: float
    def __init__(self, number: _Optional[int] = ..., state: _Optional[_Union[RoundState, str]] = ..., selected: _Optional[int] = ..., received: _Optional[int] = ..., failed: _Optional[int] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., seconds: _Optional[float] = ..., local_loss: _Optional[float] = ..., head_bound: _Optional[float] = ..., saved_bound: _Optional[float] = ..., staleness: _Optional[float] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("device_id", "name", "last_seen", "cores", "memory_bytes", "machine", "software", "head_budget", "updates", "failures", "bytes_up", "bytes_down", "failure", "working", "enrolled_at", "revoked_at", "left")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    HEAD_BUDGET_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    WORKING_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    name: str
    last_seen: float
    cores: int
    memory_bytes: int
    machine: str
    software: str
    head_budget: float
    updates: int
    failures: int
    bytes_up: int
    bytes_down: int
    failure: str
    working: bool
    enrolled_at: float
    revoked_at: float
    left: bool
    def __init__(self, device_id: _Optional[str] = ..., name: _Optional[str] = ..., last_seen: _Optional[float] = ..., cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., machine: _Optional[str] = ..., software: _Optional[str] = ..., head_budget: _Optional[float] = ..., updates: _Optional[int] = ..., failures: _Optional[int] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., failure: _Optional[str] = ..., working: bool = ..., enrolled_at: _Optional[float] = ..., revoked_at: _Optional[float] = ..., left: bool = ...) -> None: ...
