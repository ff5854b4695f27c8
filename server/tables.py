"""Runs, rounds and devices as tables for people."""

import math
import time
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from protos.ravan.v1 import control_pb2 as pb

METRICS = {pb.METRIC_PERPLEXITY: "perplexity", pb.METRIC_LOSS: "loss"}


def run_table(run: pb.Run) -> RenderableType:
    """A run's heading and its rounds."""
    heading = (
        f"[bold]run {run.run_id}[/bold] {_name(pb.RunState.Name(run.state))}, {escape(run.model)}, "
        f"{run.trainable_parameters:,} trainable parameters, {run.rounds_published} of {run.rounds_planned} rounds"
    )
    heading += f"\n{_aggregation(run.aggregation)}"
    table = Table("round", "state", "updates", "failed", box=None)
    for name in [*_columns(run), "local loss", "up", "down", "seconds"]:
        table.add_column(name)
    for column in table.columns[2:]:
        column.justify = "right"
    if run.HasField("initial"):
        table.add_row("0", "start", "", "", *_evaluated(run, run.initial), "", "", "", "")
    for r in run.rounds:
        mark = " *" if run.HasField("best_round") and run.best_round == r.number else ""
        table.add_row(
            f"{r.number}{mark}",
            _name(pb.RoundState.Name(r.state)),
            f"{r.received}/{r.selected}",
            str(r.failed),
            *_evaluated(run, r.evaluation if r.HasField("evaluation") else None),
            f"{r.local_loss:.3f}" if r.HasField("local_loss") else "",
            size(r.bytes_up),
            size(r.bytes_down),
            f"{r.seconds:.0f}",
        )
    return Group(heading, table)


def device_table(devices: list[pb.Device]) -> RenderableType:
    """One line a device."""
    table = Table(
        "device", "name", "seen", "cores", "heads", "updates", "failed", "up", "down", "last failure", box=None
    )
    now = time.time()
    for d in devices:
        table.add_row(
            d.device_id[:8],
            escape(d.name),
            _seen(d, now),
            str(d.cores),
            f"{d.head_budget:.0%}",
            str(d.updates),
            str(d.failures),
            size(d.bytes_up),
            size(d.bytes_down),
            escape(d.failure),
        )
    return table


def refused_line(refused: Mapping[str, int]) -> str:
    """What was refused, the most frequent first."""
    counts = ", ".join(f"{count} {code}" for code, count in sorted(refused.items(), key=lambda item: -item[1]))
    return f"refused since the server started: {counts or 'nothing'}"


def _seen(device: pb.Device, now: float) -> str:
    if device.HasField("revoked_at"):
        return "left" if device.left else "revoked"
    if device.working:
        return "working"
    return f"{max(now - device.last_seen, 0):.0f} s ago" if device.last_seen else "not yet"


def size(count: int) -> str:
    """Bytes for people, in powers of 1,000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def metric_name(run: pb.Run) -> str:
    """The run's metric in words."""
    return METRICS.get(run.metric, "accuracy")


def score(run: pb.Run, evaluation: pb.Evaluation) -> str:
    """An evaluation by the run's metric."""
    match metric_name(run):
        case "perplexity":
            return f"{math.exp(min(evaluation.loss, 700)):.2f}"
        case "loss":
            return f"{evaluation.loss:.3f}"
    return f"{evaluation.accuracy:.1%}"


def _columns(run: pb.Run) -> list[str]:
    """Headings of what an evaluation tells: the metric, and the loss if that is not the metric."""
    return list(dict.fromkeys((metric_name(run), "loss")))


def _evaluated(run: pb.Run, evaluation: pb.Evaluation | None) -> list[str]:
    """What an evaluation tells, by column; nothing if there was none."""
    if evaluation is None:
        return [""] * len(_columns(run))
    return [score(run, evaluation), f"{evaluation.loss:.3f}"][: len(_columns(run))]


def _aggregation(how: pb.Aggregation) -> str:
    """How updates become an adapter, in one line."""
    rule = pb.AggregationRule.Name(how.rule).removeprefix("AGGREGATION_RULE_").lower().replace("_", "-")
    optimizer = pb.ServerOptimizer.Name(how.optimizer).removeprefix("SERVER_OPTIMIZER_").lower()
    parts = [f"{rule} that bears {how.attackers:.0%} hostile updates" if how.attackers else rule]
    parts.append(f"{optimizer} with rate {how.learning_rate:g}")
    bounds = [f"{how.max_norm:g} of a head"] * bool(how.max_norm)
    bounds += [f"{how.max_saved_norm:g} of what is trained whole"] * bool(how.max_saved_norm)
    bounds += [f"{how.max_norm_ratio:g} times the last rounds' median"] * bool(how.max_norm_ratio)
    parts.append("norms up to " + " and ".join(bounds) if bounds else "any norm")
    return ", ".join(parts)


def _name(constant: str) -> str:
    """RUN_STATE_ACTIVE as "active"."""
    return constant.split("_STATE_", 1)[1].lower()
