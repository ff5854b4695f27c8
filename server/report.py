"""Runs, rounds and devices as the Control service tells them."""

import math
import time
from collections import defaultdict
from collections.abc import Sequence

from protos.ravan.v1 import control_pb2 as pb
from ravan.inputs import Metric
from ravan.rules import RuleName
from ravan.runtime.session import Evaluation
from ravan.server_optimizer import OptimizerKind
from server.best import best_round
from server.records import Assignment, AssignmentState, Device, Holder, Round, RoundState, Run, RunState
from server.settings import RunOptions
from server.state import State

RUN_STATES = {
    RunState.ACTIVE: pb.RUN_STATE_ACTIVE,
    RunState.PAUSED: pb.RUN_STATE_PAUSED,
    RunState.STOPPED: pb.RUN_STATE_STOPPED,
    RunState.FINISHED: pb.RUN_STATE_FINISHED,
}
ROUND_STATES = {
    RoundState.SELECTING: pb.ROUND_STATE_SELECTING,
    RoundState.COLLECTING: pb.ROUND_STATE_COLLECTING,
    RoundState.AGGREGATING: pb.ROUND_STATE_AGGREGATING,
    RoundState.PUBLISHED: pb.ROUND_STATE_PUBLISHED,
    RoundState.ABANDONED: pb.ROUND_STATE_ABANDONED,
}
METRICS = {
    Metric.ACCURACY: pb.METRIC_ACCURACY,
    Metric.PERPLEXITY: pb.METRIC_PERPLEXITY,
    Metric.LOSS: pb.METRIC_LOSS,
}
RULES = {
    RuleName.MEAN: pb.AGGREGATION_RULE_MEAN,
    RuleName.CLIPPED_MEAN: pb.AGGREGATION_RULE_CLIPPED_MEAN,
    RuleName.MEDIAN: pb.AGGREGATION_RULE_MEDIAN,
    RuleName.TRIMMED_MEAN: pb.AGGREGATION_RULE_TRIMMED_MEAN,
    RuleName.MULTI_KRUM: pb.AGGREGATION_RULE_MULTI_KRUM,
}
OPTIMIZERS = {
    OptimizerKind.FEDAVG: pb.SERVER_OPTIMIZER_FEDAVG,
    OptimizerKind.FEDAVGM: pb.SERVER_OPTIMIZER_FEDAVGM,
    OptimizerKind.FEDADAM: pb.SERVER_OPTIMIZER_FEDADAM,
    OptimizerKind.FEDYOGI: pb.SERVER_OPTIMIZER_FEDYOGI,
}


def report_run(state: State, run: Run) -> pb.Run:
    """A run with all its rounds."""
    rounds, parts = state.rounds(run.run_id), state.assignments(run.run_id)
    best = best_round(rounds, run.options.metric)
    return pb.Run(
        run_id=run.run_id,
        state=RUN_STATES[run.state],
        bundle_id=run.bundle_id,
        model=run.model,
        trainable_parameters=run.trainable_parameters,
        rounds_planned=run.options.rounds,
        rounds_published=sum(r.state is RoundState.PUBLISHED for r in rounds),
        initial=_evaluation(run.initial),
        best_round=best.number if best else None,
        rounds=[_round(r, run.options, _parts_of(r, parts, newest=rounds[-1].number)) for r in rounds],
        created_at=run.created_at,
        metric=METRICS[run.options.metric or Metric.ACCURACY],
        aggregation=_aggregation(run.options),
        buffer=run.options.buffer if run.options.is_async else None,
        max_staleness=run.options.max_staleness if run.options.is_async else None,
    )


def _parts_of(r: Round, parts: list[Assignment], newest: int) -> list[Assignment]:
    """The parts that a round is about: those whose updates it folds, or would, and those that failed in it."""

    def belongs(part: Assignment) -> bool:
        if part.state is not AssignmentState.RECEIVED:
            return part.round == r.number
        return r.number == (newest if part.counts_in is None else part.counts_in)

    return [part for part in parts if belongs(part)]


def report_devices(state: State) -> list[pb.Device]:
    """All devices with what they did in all runs; last those that enrolled and did not check in yet."""
    parts: defaultdict[str, list[Assignment]] = defaultdict(list)
    working = set()
    for run in state.runs():
        current = state.current_round(run.run_id)
        for part in state.assignments(run.run_id):
            parts[part.device_id].append(part)
            if part.state is AssignmentState.ASSIGNED and _is_open(current, part):
                working.add(part.device_id)
    holders = {holder.device_id: holder for holder in state.holders()}
    seen = {device.device_id: device for device in state.devices()}
    silent = {
        h.device_id: Device(h.device_id, h.name, last_seen=0.0) for h in holders.values() if h.device_id not in seen
    }
    return [
        _device(device, parts[device_id], holders.get(device_id), working=device_id in working)
        for device_id, device in (seen | silent).items()
    ]


def _device(device: Device, parts: list[Assignment], holder: Holder | None, *, working: bool) -> pb.Device:
    return pb.Device(
        device_id=device.device_id,
        name=device.name,
        last_seen=device.last_seen,
        cores=device.cores,
        memory_bytes=device.memory_bytes,
        machine=device.machine,
        software=device.software,
        head_budget=device.head_budget,
        updates=_count(parts, AssignmentState.RECEIVED),
        failures=_count(parts, AssignmentState.FAILED),
        bytes_up=sum(part.bytes_up for part in parts),
        bytes_down=device.bytes_down + sum(part.bytes_down for part in parts),
        failure=device.failure,
        working=working,
        enrolled_at=holder.enrolled_at if holder else None,
        revoked_at=holder.revoked_at if holder else None,
        left=bool(holder and holder.left_at),
    )


def _round(r: Round, options: RunOptions, parts: list[Assignment]) -> pb.Round:
    received = [part for part in parts if part.state is AssignmentState.RECEIVED]
    return pb.Round(
        number=r.number,
        state=ROUND_STATES[r.state],
        selected=options.buffer if options.is_async else len(parts),
        received=len(received),
        failed=_count(parts, AssignmentState.FAILED),
        bytes_up=sum(part.bytes_up for part in parts),
        bytes_down=sum(part.bytes_down for part in parts),
        evaluation=_evaluation(r.evaluation),
        seconds=(r.closed_at or time.time()) - r.opened_at,
        local_loss=_mean([part.report.last_loss for part in received]),
        staleness=_mean([r.number - part.round for part in received]) if options.is_async else None,
        head_bound=r.head_bound,
        saved_bound=r.saved_bound,
    )


def _aggregation(options: RunOptions) -> pb.Aggregation:
    optimizer = options.optimizer_of_server()
    return pb.Aggregation(
        rule=RULES[options.aggregation],
        attackers=options.rule().attackers,
        max_norm=options.max_norm,
        max_saved_norm=options.max_saved_norm,
        max_norm_ratio=options.max_norm_ratio,
        optimizer=OPTIMIZERS[options.server_optimizer],
        learning_rate=optimizer.rate,
        momentum=getattr(optimizer, "beta", None),
        beta2=getattr(optimizer, "beta2", None),
        tau=getattr(optimizer, "tau", None),
    )


def _evaluation(evaluation: Evaluation | None) -> pb.Evaluation | None:
    if evaluation is None:
        return None
    accuracy = None if math.isnan(evaluation.accuracy) else evaluation.accuracy
    return pb.Evaluation(accuracy=accuracy, loss=evaluation.loss, examples=evaluation.examples)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _count(parts: list[Assignment], state: AssignmentState) -> int:
    return sum(part.state is state for part in parts)


def _is_open(current: Round | None, part: Assignment) -> bool:
    return current is not None and current.number == part.round and current.state is RoundState.COLLECTING
