"""make example-har: a device for each person, a server, a few rounds, and the accuracy on people who took no part."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict
from safetensors.torch import load_file

from demo.federation import Federation, Kept, console, ravan_export, say, traffic
from demo.processes import has_module
from examples.har.data import Windows, joined, people, windows
from protos.ravan.v1 import control_pb2 as pb
from ravan.bundle import open_bundle
from ravan.cli.errors import run as run_app
from ravan.cli.settings import Settings, command
from ravan.errors import EnvironmentProblem, SettingsError
from server.tables import run_table, size

ROOT = Path(__file__).resolve().parent.parent.parent
FACTORY = "examples.har.model:har"
PLAN = {
    "local_steps": 30,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "saved_learning_rate": 5e-3,
    "learning_rate_decay": 0.9,
    "evaluate_every": 2,
}


class ExampleSettings(Settings):
    """Settings of the example."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_HAR_", frozen=True, extra="forbid")

    held_out: PositiveInt = Field(6, description="People who take no part, to evaluate on.")
    processes: PositiveInt = Field(3, description="Client processes that play the devices.")
    clients_per_round: PositiveInt = Field(8, description="Devices that train in a round.")
    rounds: PositiveInt = Field(10, description="Rounds.")
    heads: PositiveInt = Field(4, description="Heads.")
    rank: PositiveInt = Field(16, description="Rank of a head.")
    seed: int = Field(0, ge=0, description="Of the choice of people, the bases and the run.")
    out: Path = Field(ROOT / "examples/har/out", description="Folder for everything the example writes; emptied first.")
    edge_python: Path = Field(ROOT / ".venv-edge/bin/python", description="Python of the edge environment.")
    listen: str = Field("127.0.0.1:7173", description="The server's address.")


class Paths(Kept):
    """Where the example keeps what, beside what the federation does."""

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def bundle(self) -> Path:
        return self.out / "bundle"

    @property
    def merged(self) -> Path:
        return self.out / "merged"


@command(ExampleSettings)
def example(settings: ExampleSettings) -> None:
    """Teach a transformer to tell six activities from 30 people's phones, which keep their recordings."""
    began, paths = time.monotonic(), Paths(settings.out.resolve())
    if not settings.edge_python.exists() or has_module(settings.edge_python, "torch"):
        raise EnvironmentProblem(f"{settings.edge_python} must exist and have no torch: run make setup.")
    shutil.rmtree(paths.out, ignore_errors=True)
    paths.data.mkdir(parents=True)
    say("1/4 cutting the recordings into windows, a device for each person")
    shards, held_out = split(settings, paths)
    say("2/4 exporting the training bundle of a torch module")
    options = ("--heads", settings.heads, "--rank", settings.rank, "--seed", settings.seed, "--out", paths.bundle)
    ravan_export("custom", FACTORY, *options)
    say(f"3/4 training: {len(shards)} devices in {settings.processes} processes, {settings.rounds} rounds")
    run = train(settings, paths, shards)
    say("4/4 merging the adapter into the module, and asking torch")
    ravan_export("merge", paths.bundle, paths.adapter, "--out", paths.merged)
    console.print(run_table(run))
    report = figures(run, paths, settings, held_out) | {"seconds": round(time.monotonic() - began)}
    (paths.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    say(
        f"accuracy on {settings.held_out} people who took no part {report['accuracy_before']:.1%} -> "
        f"{report['accuracy_after']:.1%} (merged module, by torch; {report['accuracy_last_round']:.1%} on the server), "
        f"{size(report['bytes_up_per_client_round'])} up per client and round, {report['seconds']} s"
    )


def split(settings: ExampleSettings, paths: Paths) -> tuple[list[Path], Windows]:
    """Each device's file, and the windows of the people held out.

    Raises:
        SettingsError: nobody is left to take part.
    """
    recordings = people()
    if settings.held_out >= len(recordings):
        raise SettingsError(
            f"--held-out: {settings.held_out} of {len(recordings)} people leave no device: hold out fewer."
        )
    order = np.random.default_rng(settings.seed).permutation(sorted(recordings)).tolist()
    held_out = joined([windows(recordings[person]) for person in order[: settings.held_out]])
    held_out.save(paths.data / "held-out.npz")
    devices = sorted(order[settings.held_out :])
    return [windows(recordings[person]).save(paths.data / f"person-{person:02}.npz") for person in devices], held_out


def train(settings: ExampleSettings, paths: Paths, shards: list[Path]) -> pb.Run:
    """Runs the server and the devices until the run has finished; returns its status."""
    federation = Federation(paths.out, shards, settings.processes, settings.edge_python, settings.listen, threads=1)
    chosen = {"rounds": settings.rounds, "clients_per_round": min(settings.clients_per_round, len(shards))}
    where = {"bundle": str(paths.bundle), "evaluation": str(paths.data / "held-out.npz")}
    return federation.train({**PLAN, **chosen, **where, "seed": settings.seed})


def figures(run: pb.Run, paths: Paths, settings: ExampleSettings, held_out: Windows) -> dict[str, Any]:
    """The figures of the run."""
    evaluated = [r for r in run.rounds if r.HasField("evaluation")]
    manifest = open_bundle(paths.bundle).manifest
    return {
        "accuracy_before": run.initial.accuracy,
        "accuracy_by_round": {r.number: r.evaluation.accuracy for r in evaluated},
        "accuracy_last_round": evaluated[-1].evaluation.accuracy,
        "accuracy_after": accuracy_of(paths.merged, held_out),
        "held_out_people": settings.held_out,
        "held_out_windows": len(held_out.labels),
        "clients_per_round": settings.clients_per_round,
        "trainable_parameters": run.trainable_parameters,
        **traffic(run),
        "bundle_bytes": manifest.download_size,
        "gradient_difference_to_torch": manifest.verification["gradient"],
    }


def accuracy_of(folder: Path, held_out: Windows) -> float:
    """Of the merged module: its class with the state dict in the folder, and nothing of Ravan."""
    from examples.har.model import ActivityTransformer

    module = ActivityTransformer().eval()
    module.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.no_grad():
        predicted = module(torch.from_numpy(held_out.x)).argmax(1).numpy()
    return float((predicted == held_out.labels).mean())


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(example)
    run_app(app)
