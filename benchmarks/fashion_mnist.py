"""Image classification end to end: a small ViT that knows half of Fashion-MNIST's classes learns all of them.

usage: python -m benchmarks.fashion_mnist [--data FOLDER] [--rounds N] [--json FILE], in the repository.

A ViT (192 wide, 6 layers, patches of 4 x 4) is trained for a short while on the first five classes, exported in int8
and fine-tuned on all ten by ten devices, whose images are others than it was pretrained on and split by Dirichlet 0.3.
Server and clients are processes of their own; the clients run in the environment without torch.
"""

import argparse
import gzip
import json
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

from demo.data import dirichlet_split
from demo.federation import Federation, ravan_export, say, traffic
from protos.ravan.v1 import control_pb2 as pb
from ravan.bundle import open_bundle
from ravan.cli.errors import run as run_app
from ravan.errors import EnvironmentProblem

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
KNOWN = 5  # classes of the pretraining
PRETRAINING = 30_000  # the first so many training images; devices have others
DEVICES, PROCESSES, ALPHA = 10, 2, 0.3
BATCH, RATE = 32, 1e-3  # of the pretraining
FEDERATED, HELD_OUT = 10_000, 2_000
PLAN = {
    "clients_per_round": 5,
    "local_steps": 20,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "saved_learning_rate": 5e-3,
    "learning_rate_decay": 0.85,
    "evaluate_every": 2,
}
ADAPTER = ("--heads", 4, "--rank", 48, "--precision", "int8")


@dataclass(frozen=True)
class Images:
    """Grey images uint8 [n, 28, 28] and their label indices [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __getitem__(self, chosen: slice | NDArray[np.int64] | list[int]) -> "Images":
        return Images(self.pixels[chosen], self.labels[chosen])

    def save(self, path: Path) -> Path:
        """As an NPZ file, the form that devices read."""
        np.savez_compressed(path, images=self.pixels, labels=self.labels)
        return path


def main() -> None:
    """Measures and prints JSON."""
    arguments = parse()
    train, test = read(arguments.data, "train"), read(arguments.data, "t10k")
    generator = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        out, began = Path(scratch), time.monotonic()
        say(f"pretraining on {KNOWN} of {len(LABELS)} classes")
        pretrain(train[:PRETRAINING], out / "vit", generator)
        pretrained = time.monotonic()
        export(out, arguments.seed)
        shards = split(train[PRETRAINING:], out, generator)
        held_out = test[generator.permutation(len(test.labels))[:HELD_OUT]].save(out / "held-out.npz")
        exported = time.monotonic()
        say(f"training: {len(shards)} devices in {PROCESSES} processes, {arguments.rounds} rounds")
        federation = Federation(out, shards, PROCESSES, arguments.edge_python, arguments.listen, threads=1)
        created = {"bundle": str(out / "bundle"), "evaluation": str(held_out), "rounds": arguments.rounds}
        run = federation.train(PLAN | created | {"seed": arguments.seed})
        seconds = {
            "pretraining": round(pretrained - began),
            "export": round(exported - pretrained),
            "federation": round(time.monotonic() - exported),
        }
        figures = report(run, out / "bundle") | {"seconds": seconds}
    print(json.dumps(figures, indent=2))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def read(folder: Path, part: str) -> Images:
    """The ``train`` or ``t10k`` images and labels, from gzipped IDX files.

    Raises:
        EnvironmentProblem: the data is not installed.
    """
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        path = folder / f"{part}-{kind}-ubyte.gz"
        try:
            with gzip.open(path) as file:
                dimensions = file.read(4)[3]
                shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
                arrays.append(np.frombuffer(file.read(), np.uint8).reshape(shape))
        except OSError as error:
            raise EnvironmentProblem(
                f"{path} can't be read: install Debian's package dataset-fashion-mnist, or name the folder of its "
                "four files with --data."
            ) from error
    return Images(*arrays)


def pretrain(images: Images, folder: Path, generator: np.random.Generator) -> None:
    """One epoch over the known classes, and the model as transformers saves it.

    On one thread: beside other work, torch's spinning threads make two a dozen times slower than one.
    """
    known = images[np.flatnonzero(images.labels < KNOWN)]
    torch.manual_seed(int(generator.integers(2**31)))
    torch.set_num_threads(1)
    model = small_vit()
    batches = np.array_split(generator.permutation(len(known.labels)), len(known.labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=len(batches), pct_start=0.1)
    for chosen in batches:
        batch = known[chosen]
        pixels = torch.from_numpy(batch.pixels[:, None].astype(np.float32) / 127.5 - 1)
        logits = model(pixel_values=pixels).logits
        optimizer.zero_grad()
        loss = F.cross_entropy(logits, torch.from_numpy(batch.labels.astype(np.int64)))
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)


def small_vit() -> ViTForImageClassification:
    """1.8 million parameters for grey images of 28 x 28, 50 tokens each."""
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=384,
        image_size=28,
        patch_size=4,
        num_channels=1,
    )
    config.num_labels = KNOWN
    model = ViTForImageClassification(config)
    model.train()
    return model


def export(out: Path, seed: int) -> None:
    """The bundle, on the command line as a user makes it; the classifier is new, for all the classes."""
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), "utf-8")
    where = ("--labels", out / "labels.txt", "--seed", seed, "--out", out / "bundle")
    ravan_export("image-classifier", out / "vit", *ADAPTER, *where)


def split(images: Images, out: Path, generator: np.random.Generator) -> list[Path]:
    """Each device's NPZ file; devices without images are left out."""
    mine = images[generator.permutation(len(images.labels))[:FEDERATED]]
    parts = dirichlet_split([LABELS[i] for i in mine.labels], DEVICES, ALPHA, generator)
    return [mine[part].save(out / f"device-{number:02}.npz") for number, part in enumerate(parts, 1) if part]


def report(run: pb.Run, bundle: Path) -> dict[str, Any]:
    """The figures of the run."""
    evaluated = [r for r in run.rounds if r.HasField("evaluation")]
    manifest = open_bundle(bundle).manifest
    return {
        "accuracy_before": run.initial.accuracy,
        "accuracy_by_round": {r.number: r.evaluation.accuracy for r in evaluated},
        "held_out_images": run.initial.examples,
        "devices": DEVICES,
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
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder with the four gzipped IDX files")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="", help="file for the figures")
    parser.add_argument("--listen", default="127.0.0.1:7172", help="the server's address")
    parser.add_argument("--edge-python", type=Path, default=ROOT / ".venv-edge/bin/python")
    return parser.parse_args()


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    run_app(main)
