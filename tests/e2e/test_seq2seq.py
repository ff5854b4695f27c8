"""T5 in a federation of real processes: it classifies by writing the label's name, and the merged model does too."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from export.merge import merge_bundle
from ravan.bundle import Bundle
from tests.conftest import sentences, write_rows
from tests.e2e.processes import FAST, Fleet, run_of


def written(model: Path, texts: list[str]) -> list[str]:
    """What a plain transformers model writes, greedily."""
    plain, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ids = plain.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=8)
    return [str(answer) for answer in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def test_labels_learned_on_devices_are_written_by_the_merged_model(
    label_bundle: Bundle, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = sentences(30, 9)
    evaluation = write_rows(tmp_path / "held-out.jsonl", held_out)
    fleet.serve("--until-finished")
    options = {"rounds": 2, "clients_per_round": 2, "local_steps": 20, "learning_rate": 0.05, "evaluation": evaluation}
    fleet.create(label_bundle.folder, **options, **FAST)
    for i in range(2):
        fleet.device(f"device-{i}", write_rows(tmp_path / f"data-{i}.jsonl", sentences(40, i)))
    fleet.finished()
    run = run_of(fleet)
    assert run["metric"] == "METRIC_ACCURACY"
    last = run["rounds"][-1]["evaluation"]
    assert last["accuracy"] > run["initial"]["accuracy"] + 0.3
    monkeypatch.setattr("export.quantize.SMALLEST", 32 * 32)  # the tiny model's layers
    adapter = next(fleet.state.glob("published/*/last.safetensors"))
    merged = merge_bundle(label_bundle, adapter, tmp_path / "merged", int8=True)
    assert merged.int8 is not None
    assert merged.int8.cosine > 0.99
    answers = written(merged.folder, [row["text"] for row in held_out])
    right = sum(answer == row["label"] for answer, row in zip(answers, held_out, strict=True))
    assert right / 30 == pytest.approx(last["accuracy"])
