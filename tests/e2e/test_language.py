"""A language model and a frozen prefix in a federation of real processes, the devices without torch."""

from pathlib import Path

from ravan.bundle import Bundle
from tests.conftest import sentences, write_rows
from tests.e2e.processes import FAST, Fleet, run_of


def test_plain_text_lowers_the_perplexity(lm_bundle: Bundle, fleet: Fleet, tmp_path: Path) -> None:
    text = tmp_path / "diary.txt"
    text.write_text("the same line again, and the same line again.\n" * 20)
    fleet.serve("--until-finished")
    options = {"rounds": 2, "clients_per_round": 1, "local_steps": 20, "learning_rate": 0.02, "evaluation": text}
    fleet.create(lm_bundle.folder, **options, **FAST)
    fleet.device("writer", text)
    fleet.finished()
    run = run_of(fleet)
    assert run["metric"] == "METRIC_PERPLEXITY"
    losses = [run["initial"]["loss"], *(r["evaluation"]["loss"] for r in run["rounds"])]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_a_device_keeps_the_frozen_layers_results(top_bundle: Bundle, fleet: Fleet, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", sentences(40, 1))
    fleet.serve("--until-finished")
    fleet.create(top_bundle.folder, rounds=2, clients_per_round=1, local_steps=15, learning_rate=0.01, **FAST)
    fleet.device("client", data)
    fleet.finished()
    assert sum(path.stat().st_size for path in (tmp_path / "client").glob("hidden.sqlite*")) > 10_000
    losses = [r["local_loss"] for r in run_of(fleet)["rounds"]]
    assert losses[1] < losses[0]
