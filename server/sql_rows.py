"""Records as rows of the SQL state, and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from ravan.rpc.vouching import Archive
from ravan.runtime.session import Evaluation
from server.records import Assignment, AssignmentState, LocalReport, Release, Round, RoundState, Run, RunState
from server.settings import RunOptions


def row_of(record: Any, *leave: str) -> dict[str, Any]:
    """A record's fields, but for some."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__ if name not in leave}


def evaluation_row(evaluation: Evaluation | None) -> dict[str, Any]:
    """The columns of an evaluation, empty without one."""
    if evaluation is None:
        return dict.fromkeys(("accuracy", "loss", "examples"))
    row = asdict(evaluation)
    return {name: value if math.isfinite(value) else None for name, value in row.items()}  # SQL knows no NaN


def _take_evaluation(row: dict[str, Any]) -> Evaluation | None:
    values = {name: row.pop(name) for name in ("accuracy", "loss", "examples")}
    if values["examples"] is None:
        return None
    figures = {name: math.nan if values[name] is None else values[name] for name in ("accuracy", "loss")}
    return Evaluation(**figures, examples=values["examples"])


def run_from(row: dict[str, Any]) -> Run:
    """The run of a row."""
    initial = _take_evaluation(row)
    options = options_from(row.pop("options"))
    return Run(**{**row, "state": RunState(row["state"])}, options=options, initial=initial)


@lru_cache(maxsize=16)
def options_from(text: str) -> RunOptions:
    """A run's options; read once, for they never change and every call of a device needs them."""
    return RunOptions.model_validate_json(text)


def round_from(row: dict[str, Any]) -> Round:
    """The round of a row."""
    evaluation = _take_evaluation(row)
    return Round(**{**row, "state": RoundState(row["state"])}, evaluation=evaluation)


def assignment_row(part: Assignment) -> dict[str, Any]:
    """The row of a part."""
    return row_of(part, "report") | {f"local_{k}": v for k, v in row_of(part.report).items()}


def assignment_from(row: Mapping[str, Any]) -> Assignment:
    """The part of a row."""
    report = LocalReport(**{k.removeprefix("local_"): v for k, v in row.items() if k.startswith("local_")})
    rest = {k: v for k, v in row.items() if not k.startswith("local_")}
    return Assignment(**{**rest, "state": AssignmentState(rest["state"])}, report=report)


def release_from(row: Mapping[str, Any]) -> Release:
    """The release of a row."""
    return Release(Archive(**{k: v for k, v in row.items() if k != "signature"}), row["signature"])
