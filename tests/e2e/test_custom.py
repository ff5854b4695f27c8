"""Federations for modules of a user's own: data in NPZ files, and read by a class of the device's own."""

import json
from typing import Any

import numpy as np

from ravan.bundle import Bundle
from tests.conftest import ROOT
from tests.custom_models import NAMES, motion, write_tags, write_values, write_windows
from tests.e2e.processes import Fleet
from tests.walks import write_seed

QUICK = {"batch_size": 16, "learning_rate": 0.02, "saved_learning_rate": 0.02, "poll_min": 0.05, "poll_max": 0.1}


def test_two_devices_with_windows_raise_the_accuracy(fleet: Fleet, window_bundle: Bundle) -> None:
    folder = fleet.folder
    server = fleet.serve("--until-finished")
    held_out = write_windows(folder / "held-out.npz", 90, 99)
    fleet.create(window_bundle.folder, evaluation=held_out, rounds=2, clients_per_round=2, local_steps=40, **QUICK)
    fleet.device("good", write_windows(folder / "good.npz", 90, 1))
    damaged = dict(np.load(write_windows(folder / "damaged.npz", 90, 2)))
    damaged["x"][3, 0, 0] = np.nan
    np.savez(folder / "damaged.npz", **damaged)
    fleet.device("damaged", folder / "damaged.npz", options=("--skip-bad",))
    fleet.finished()
    assert server.wait(30) == 0
    run: Any = fleet.status()["runs"][0]  # type: ignore[index]
    assert [r["received"] for r in run["rounds"]] == [2, 2]
    assert run["metric"] == "METRIC_ACCURACY"
    assert run["initial"]["accuracy"] < 0.7
    assert run["rounds"][-1]["evaluation"]["accuracy"] > 0.9
    assert '"skipped": 1' in fleet.log("damaged")


def test_a_device_reads_its_data_by_a_class_of_its_own(fleet: Fleet, tagger_bundle: Bundle) -> None:
    folder = fleet.folder
    server = fleet.serve("--until-finished")
    held_out = write_tags(folder / "held-out.npz")
    fleet.create(tagger_bundle.folder, evaluation=held_out, rounds=1, clients_per_round=1, local_steps=60, **QUICK)
    dataset = ("--dataset", f"{ROOT / 'tests' / 'walks.py'}:Walks")
    fleet.device("walker", write_seed(folder / "seed", 7), options=dataset)
    fleet.finished()
    assert server.wait(30) == 0
    run: Any = fleet.status()["runs"][0]  # type: ignore[index]
    assert run["rounds"][-1]["evaluation"]["accuracy"] > run["initial"]["accuracy"] + 0.2


def test_after_a_run_a_device_goes_on_alone_and_asks_its_own_adapter(fleet: Fleet, window_bundle: Bundle) -> None:
    folder = fleet.folder
    fleet.serve()
    fleet.create(window_bundle.folder, rounds=1, clients_per_round=1, local_steps=5, **QUICK)
    data = write_windows(folder / "mine.npz", 120, 1)
    fleet.device("home", data, options=("--held-out", "0.25"))
    fleet.finished()
    assert fleet.run("ravan-server", "export", "adapter.safetensors").returncode == 0
    ours = ("--keep", "all", "--held-out", "0.25", "--epochs", "30", "--learning-rate", "0.02", "--format", "json")
    done = fleet.run("ravan-edge", "personalize", "adapter.safetensors", "--home", "home", "--data", str(data), *ours)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["held_out"] == {"examples": 30, "labels": 30}
    assert told["personal"]["accuracy"] > told["global"]["accuracy"] + 0.1
    x, labels = motion(30, 7)
    np.savez(folder / "new.npz", x=x)
    done = fleet.run("ravan-edge", "predict", told["kept"], "--home", "home", "--data", "new.npz", "--format", "jsonl")
    said = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert np.mean([label == NAMES[true] for label, true in zip(said, labels, strict=True)]) > 0.7


def test_values_are_compared_by_their_loss(fleet: Fleet, value_bundle: Bundle) -> None:
    folder = fleet.folder
    server = fleet.serve("--until-finished")
    held_out = write_values(folder / "held-out.npz", 60, 99)
    fleet.create(value_bundle.folder, evaluation=held_out, rounds=2, clients_per_round=1, local_steps=40, **QUICK)
    fleet.device("values", write_values(folder / "values.npz", 90, 1))
    fleet.finished()
    assert server.wait(30) == 0
    run: Any = fleet.status()["runs"][0]  # type: ignore[index]
    last = run["rounds"][-1]["evaluation"]
    assert run["metric"] == "METRIC_LOSS"
    assert last["loss"] < 0.5 * run["initial"]["loss"]
    assert "accuracy" not in last


def test_a_dataset_that_is_not_there_ends_the_client_with_a_sentence(fleet: Fleet) -> None:
    device = fleet.device("lost", fleet.folder / "data.npz", options=("--dataset", "gone.py:Recordings"))
    assert device.wait(30) == 2
    assert "gone.py does not exist: give package.module:name or folder/file.py:name." in fleet.log("lost")
    assert "Traceback" not in fleet.log("lost")


def test_data_that_does_not_fit_the_bundle_ends_the_device_and_is_named_there(
    fleet: Fleet, window_bundle: Bundle
) -> None:
    fleet.serve("--until-finished")
    fleet.create(window_bundle.folder, rounds=1, clients_per_round=1, **QUICK)
    np.savez(fleet.folder / "short.npz", x=np.zeros((4, 23, 3)), labels=np.zeros(4, int))
    assert fleet.device("short", fleet.folder / "short.npz").wait(30) == 3
    expected = "example 0: Input x is float32 [1, 23, 3], expected is float32 [batch, 24, 3]"
    assert expected in fleet.log("short")
    assert expected not in fleet.log("server")  # what stands in the data never leaves the device
