"""Runs, rounds and devices as the Control service tells them."""

import math
import time
from collections import defaultdict

from protos.ravan.v1 import control_pb2 as pb
from ravan.inputs import Metric
from ravan.runtime.session import Evaluation
from server.publishing import best_round
from server.records import Assignment, AssignmentState, Round, RoundState, Run, RunState
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


def report_run(state: State, run: Run) -> pb.Run:
    """A run with all its rounds."""
    rounds = state.rounds(run.run_id)
    parts: defaultdict[int, list[Assignment]] = defaultdict(list)
    for part in state.assignments(run.run_id):
        parts[part.round].append(part)
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
        rounds=[_round(r, parts[r.number]) for r in rounds],
        created_at=run.created_at,
        metric=METRICS[run.options.metric or Metric.ACCURACY],
    )


def report_devices(state: State) -> list[pb.Device]:
    """All devices with what they did in all runs."""
    parts: defaultdict[str, list[Assignment]] = defaultdict(list)
    working = set()
    for run in state.runs():
        current = state.current_round(run.run_id)
        for part in state.assignments(run.run_id):
            parts[part.device_id].append(part)
            if part.state is AssignmentState.ASSIGNED and _is_open(current, part):
                working.add(part.device_id)
    return [
        pb.Device(
            device_id=device.device_id,
            name=device.name,
            last_seen=device.last_seen,
            cores=device.cores,
            memory_bytes=device.memory_bytes,
            machine=device.machine,
            software=device.software,
            head_budget=device.head_budget,
            updates=_count(parts[device.device_id], AssignmentState.RECEIVED),
            failures=_count(parts[device.device_id], AssignmentState.FAILED),
            bytes_up=sum(part.bytes_up for part in parts[device.device_id]),
            bytes_down=device.bytes_down + sum(part.bytes_down for part in parts[device.device_id]),
            failure=device.failure,
            working=device.device_id in working,
        )
        for device in state.devices()
    ]


def _round(r: Round, parts: list[Assignment]) -> pb.Round:
    received = [part for part in parts if part.state is AssignmentState.RECEIVED]
    return pb.Round(
        number=r.number,
        state=ROUND_STATES[r.state],
        selected=len(parts),
        received=len(received),
        failed=_count(parts, AssignmentState.FAILED),
        bytes_up=sum(part.bytes_up for part in parts),
        bytes_down=sum(part.bytes_down for part in parts),
        evaluation=_evaluation(r.evaluation),
        seconds=(r.closed_at or time.time()) - r.opened_at,
        local_loss=sum(part.report.last_loss for part in received) / len(received) if received else None,
    )


def _evaluation(evaluation: Evaluation | None) -> pb.Evaluation | None:
    if evaluation is None:
        return None
    accuracy = None if math.isnan(evaluation.accuracy) else evaluation.accuracy
    return pb.Evaluation(accuracy=accuracy, loss=evaluation.loss, examples=evaluation.examples)


def _count(parts: list[Assignment], state: AssignmentState) -> int:
    return sum(part.state is state for part in parts)


def _is_open(current: Round | None, part: Assignment) -> bool:
    return current is not None and current.number == part.round and current.state is RoundState.COLLECTING
