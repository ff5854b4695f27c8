"""Where the time of our step goes, and the multiply-adds it needs: from one run under onnxruntime's profiler.

usage: python -m benchmarks.profile_step JOB; prints one JSON object.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import onnx
import onnxruntime as ort

from benchmarks.contenders import Job
from benchmarks.graph import Group, OptimizedGraph, shapes
from benchmarks.our_side import measure
from benchmarks.works import Kind
from ravan.bundle import TRAIN, open_bundle

LARGEST_WEIGHTS = 3  # shapes of frozen products that the machine's peak is looked for with


@dataclass(frozen=True)
class Profile:
    """One step, or one round.

    Attributes:
        shares: of the operators' time, by group.
        multiply_adds: of the necessary products, by group and by ``int8`` or ``fp32``.
        weights: [k, n] of the frozen products with most multiply-adds.
    """

    shares: Mapping[str, float]
    multiply_adds: Mapping[str, Mapping[str, float]]
    weights: tuple[tuple[int, int], ...]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Reads what ``asdict`` made and JSON carried."""
        return cls(value["shares"], value["multiply_adds"], tuple((int(k), int(n)) for k, n in value["weights"]))


def profile(job: Job) -> Profile:
    """Runs the job as our side does, the session of train.onnx under the profiler."""
    with tempfile.TemporaryDirectory() as scratch:
        with profiled(Path(scratch)):
            seen = measure(job)
        (events,) = (json.loads(path.read_text("utf-8")) for path in Path(scratch).glob("profile*.json"))
        model = onnx.load(Path(scratch) / "optimized.onnx", load_external_data=False)
    steps = 1 if job.kind is Kind.ROUND else len(seen.parts) - 1
    spec = open_bundle(Path(job.model)).manifest.adapter
    return summary(OptimizedGraph(model, spec), after_warm_up(events, seen.parts[0]), steps)


@contextmanager
def profiled(folder: Path) -> Iterator[None]:
    """Sessions of train.onnx opened inside write their profile and their optimized graph to the folder.

    The session is opened by the code that devices run, which has no such setting: only its options are replaced.
    """
    plain = ort.InferenceSession

    def session(path: str, options: ort.SessionOptions, **others: Any) -> ort.InferenceSession:
        if Path(path).name == TRAIN:
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            options.optimized_model_filepath = str(folder / "optimized.onnx")
            weights = "session.optimized_model_external_initializers"  # a graph with all of them may pass 2 GB
            options.add_session_config_entry(f"{weights}_file_name", "optimized.bin")
            options.add_session_config_entry(f"{weights}_min_size_in_bytes", "1024")
        return plain(path, options, **others)

    with patch.object(ort, "InferenceSession", session):
        yield


def after_warm_up(events: list[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """The operators' events of all runs but the first ``runs``."""
    begins = sorted(event["ts"] for event in events if event["name"] == "model_run")
    return [event for event in events if event["cat"] == "Node" and event["ts"] >= begins[runs]]


def summary(graph: OptimizedGraph, events: list[dict[str, Any]], steps: int) -> Profile:
    """Shares over all events, multiply-adds of one of so many steps."""
    times: Counter[Group] = Counter()
    needed: dict[Group, Counter[str]] = {}
    weights: Counter[tuple[int, int]] = Counter()
    for event in events:
        name, about = event["name"].removesuffix("_kernel_time"), event["args"]
        if graph.has_body(name):
            continue
        inputs, (output, *_) = shapes(about["input_type_shape"]), shapes(about["output_type_shape"]) or [[]]
        times[graph.group(name, inputs)] += event["dur"]
        product = graph.product(name, inputs, output)
        if product is None:
            continue
        needed.setdefault(product.group, Counter())["int8" if product.int8 else "fp32"] += product.multiply_adds
        if product.weight:
            weights[product.weight] += product.multiply_adds
    return Profile(
        {group: times[group] / times.total() for group in Group},
        {group: {kind: count / steps for kind, count in counts.items()} for group, counts in needed.items()},
        tuple(shape for shape, _ in weights.most_common(LARGEST_WEIGHTS)),
    )


def main() -> None:
    """Profiles and prints."""
    print(json.dumps(asdict(profile(Job.from_json(sys.argv[1])))))


if __name__ == "__main__":
    main()
