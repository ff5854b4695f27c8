"""A device goes on alone: what it trains, what it measures on, and what it keeps."""

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edge.cli import app
from edge.held_out import split
from edge.home import PERSONAL
from edge.job import Scope
from edge.personal import Personalization, personalize
from edge.settings import PersonalizeSettings
from edge.training import LocalRun, MiniBatches, train_locally
from ravan.bundle import INITIAL, Bundle
from ravan.cli.settings import validate
from ravan.errors import BundleError, DataError, NoExamples, SettingsError
from ravan.inputs import Metric
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.adapter import read_adapter, write_adapter
from ravan.runtime.examples import read_examples
from ravan.runtime.names import INPUT_IDS
from ravan.runtime.session import Evaluation, Evaluator, TrainStep
from ravan.update import Update, decode
from tests.conftest import sentences, write_rows
from tests.e2e.processes import edge_python

OTHER = {"fruit": "tool", "tool": "animal", "animal": "fruit"}
"""What this device calls things, unlike all others."""


@pytest.fixture(scope="module")
def adapter(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A global adapter, after rounds with devices that call things by their names."""
    folder, spec = tmp_path_factory.mktemp("global"), bundle.manifest.adapter
    data = read_examples(bundle, write_rows(folder / "all.jsonl", sentences(90, 1)))
    generator, plan = np.random.default_rng(0), TrainingPlan(60, 16, learning_rate=1e-2, saved_learning_rate=1e-2)
    base = decode(spec, bundle.path(INITIAL).read_bytes())
    run = train_locally(TrainStep(bundle), spec, base, MiniBatches(data, 16, 0, generator), plan, 1.0, generator)
    write_adapter(folder / "adapter.safetensors", bundle.manifest, run.update, {"round": 3})
    return folder / "adapter.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = sentences(60, 2)
    return write_rows(tmp_path / "mine.jsonl", [{**row, "label": OTHER[row["label"]]} for row in rows])


def settings(adapter: Path, data: Path, used: Bundle, **more: object) -> PersonalizeSettings:
    given = {"adapter": adapter, "data": data, "bundle": used.folder, "home": data.parent / "home", "threads": 1}
    return validate(PersonalizeSettings, given | {"learning_rate": 1e-2, "epochs": 20} | more)


def kept(found: Personalization, bundle: Bundle) -> Update:
    assert found.kept is not None
    return read_adapter(found.kept, bundle.manifest.adapter)


def test_a_device_learns_its_own_labels_and_keeps_the_adapter(bundle: Bundle, adapter: Path, data: Path) -> None:
    found = personalize(settings(adapter, data, bundle, keep="all"))
    assert found.before.accuracy < 0.2
    assert found.after.accuracy > 0.8
    assert found.kept == data.parent / "home" / PERSONAL / "mine.safetensors"
    held_out = split(read_examples(bundle, data), 0.2, 0)[1]
    assert (len(held_out), found.held_out, found.trained_on) == (12, 12, 48)
    trainables = kept(found, bundle).trainables(bundle.manifest.adapter)
    again = Evaluator(bundle).evaluate(trainables, [held_out.batch(range(12))])
    assert again.accuracy == found.after.accuracy
    assert again.loss == pytest.approx(found.after.loss, rel=1e-4)


@pytest.mark.parametrize("scope", Scope)
def test_only_what_is_kept_is_trained(bundle: Bundle, adapter: Path, data: Path, scope: Scope) -> None:
    found = personalize(settings(adapter, data, bundle, keep=scope, epochs=2, even_if_worse=True))
    base, own = read_adapter(adapter, bundle.manifest.adapter), kept(found, bundle)
    assert (own.saved == base.saved).all() == (scope is not Scope.ALL)
    factors = (own.sH / base.sH).reshape(len(own.sH), -1)
    spread = np.ptp(factors, axis=1) / np.abs(factors.mean(axis=1))
    assert (np.abs(factors.mean(axis=1) - 1) > 1e-4).all()
    assert (spread < 1e-4).all() == (scope is Scope.S)


def test_heads_that_a_small_device_does_not_train_stay_the_global_ones(
    bundle: Bundle, adapter: Path, data: Path
) -> None:
    found = personalize(settings(adapter, data, bundle, heads=0.25, epochs=1, even_if_worse=True))
    base, own = read_adapter(adapter, bundle.manifest.adapter), kept(found, bundle)
    same = (own.sH == base.sH).all(axis=(1, 2)).reshape(own.heads.shape)
    assert (same.sum(axis=1) == 3).all()
    assert found.run.heads_per_layer == 1


def test_a_worse_adapter_is_kept_on_demand_alone(bundle: Bundle, adapter: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "usual.jsonl", sentences(30, 3))
    ruinous = {"keep": "all", "learning_rate": 3.0, "epochs": 1}
    found = personalize(settings(adapter, data, bundle, **ruinous))
    assert found.worse
    assert found.kept is None
    assert "not kept, because it is worse" in found.describe()
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    found = personalize(settings(adapter, data, bundle, **ruinous, even_if_worse=True))
    assert found.kept is not None
    assert "kept, though worse" in found.describe()
    assert f"an earlier one stays: {found.kept}" in personalize(settings(adapter, data, bundle, **ruinous)).describe()


def test_a_small_held_out_part_is_said_to_be_one(bundle: Bundle, adapter: Path, data: Path) -> None:
    found = personalize(settings(adapter, data, bundle, held_out=0.07, epochs=1, even_if_worse=True))
    assert "measured on 4 held-out examples: one more or less is 25.0 points" in found.describe()


def test_a_frozen_prefix_and_a_language_model_are_personalized_too(
    top_bundle: Bundle, lm_bundle: Bundle, data: Path
) -> None:
    text = data.with_name("diary.txt")
    text.write_text("a horse, a crow. " * 40, "utf-8")
    for bundle, file in ((top_bundle, data), (lm_bundle, text)):
        spec, path = bundle.manifest.adapter, data.with_name("start.safetensors")
        write_adapter(path, bundle.manifest, decode(spec, bundle.path(INITIAL).read_bytes()), {})
        found = personalize(settings(path, file, bundle, learning_rate=2e-2, epochs=4, home=data.parent / spec.digest))
        assert found.after.loss < found.before.loss
        assert found.kept is not None
    assert f"perplexity {found.after.perplexity:.2f}" in found.describe()
    assert f"{found.held_out} held-out examples, {found.before.examples} labels" in found.describe()
    assert found.before.examples > found.held_out


def test_the_split_is_whole_and_the_same_for_a_seed(bundle: Bundle, data: Path) -> None:
    examples = read_examples(bundle, data)
    first, again, other = (split(examples, 0.3, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted([*first[0].chosen, *first[1].chosen]) == list(range(60))
    assert len(first[1]) == 18
    np.testing.assert_array_equal(
        first[1].batch([0, 3])[INPUT_IDS], examples.batch([first[1].chosen[0], first[1].chosen[3]])[INPUT_IDS]
    )
    assert first[1].tokens(0) == examples.tokens(first[1].chosen[0])


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.99, 59), (0.5, 30)])
def test_both_parts_have_an_example(bundle: Bundle, data: Path, share: float, count: int) -> None:
    assert len(split(read_examples(bundle, data), share, 0)[1]) == count


def test_what_does_not_fit_gets_a_sentence_and_leaves_nothing(
    bundle: Bundle, lm_bundle: Bundle, adapter: Path, data: Path
) -> None:
    one = write_rows(data.with_name("one.jsonl"), sentences(1, 0))
    unknown = write_rows(data.with_name("unknown.jsonl"), [*sentences(2, 0), {"text": "a", "label": "ship"}])
    cases: list[tuple[type[Exception], str, dict[str, object]]] = [
        (BundleError, "trained with another bundle", {"bundle": lm_bundle.folder}),
        (BundleError, "is no training bundle", {"bundle": data.parent}),
        (BundleError, r"home has no bundle .* give the --home", {"bundle": None}),
        (BundleError, "is no adapter file", {"adapter": data}),
        (NoExamples, "can't be both trained on and held out", {"data": one}),
        (DataError, r"unknown.jsonl, line 3: unknown label 'ship'", {"data": unknown}),
        (SettingsError, "leave slashes out", {"name": "../mine"}),
    ]
    for kind, sentence, given in cases:
        with pytest.raises(kind, match=sentence):
            personalize(validate(PersonalizeSettings, settings(adapter, data, bundle).model_dump() | given))
    assert not (data.parent / "home").exists()


def test_an_adapter_with_other_values_than_its_layers_take_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    spec = bundle.manifest.adapter
    start = decode(spec, bundle.path(INITIAL).read_bytes())
    start.sH[0, 0, 0] = np.nan
    write_adapter(tmp_path / "adapter.safetensors", bundle.manifest, start, {})
    with pytest.raises(BundleError, match="other values than its layers take"):
        read_adapter(tmp_path / "adapter.safetensors", spec)


def test_without_torch_from_the_home_of_a_device_that_took_part(bundle: Bundle, adapter: Path, data: Path) -> None:
    home = data.parent / "home"
    (home / "bundles").mkdir(parents=True)
    (home / "bundles" / bundle.manifest.bundle_id).symlink_to(bundle.folder)
    options = ["--home", str(home), "--keep", "all", "--epochs", "20", "--learning-rate", "0.01", "--format", "json"]
    told = json.loads(edge("personalize", str(adapter), "--data", str(data), *options))
    assert told["personal"]["accuracy"] > told["global"]["accuracy"]
    assert told["held_out"] == {"examples": 12, "labels": 12}
    ask = ["--home", str(home), "--text", "the old hammer near", "--format", "jsonl"]
    labels = [json.loads(edge("predict", str(path), *ask))["label"] for path in (adapter, Path(told["kept"]))]
    assert labels == ["tool", "animal"]


def edge(command: str, *options: str) -> str:
    """What ravan-edge prints in an environment without torch."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    run = [edge_python(), "-m", "edge.cli", command, *options]
    done = subprocess.run(run, capture_output=True, text=True, env=clean, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_variable_for_another_command_is_no_mistake(
    bundle: Bundle, adapter: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAVAN_EDGE_SERVER", "server.example:7071")
    options = ["--bundle", str(bundle.folder), "--home", str(data.parent / "home"), "--epochs", "1", "--even-if-worse"]
    done = CliRunner().invoke(app, ["personalize", str(adapter), "--data", str(data), *options])
    assert done.exit_code == 0, done.output
    assert "measured on 12 held-out examples: one more or less is 8.3 points" in done.output


@pytest.mark.parametrize(
    ("metric", "before", "after", "worse"),
    [
        (Metric.ACCURACY, Evaluation(0.5, 0.8, 10), Evaluation(0.9, 0.9, 10), False),
        (Metric.ACCURACY, Evaluation(0.5, 0.8, 10), Evaluation(0.6, 0.8, 10), True),  # as many, less surely
        (Metric.ACCURACY, Evaluation(0.5, 0.8, 10), Evaluation(0.5, 0.8, 10), False),
        (Metric.PERPLEXITY, Evaluation(0.5, 0.8, 10), Evaluation(0.6, 0.9, 10), True),
        (Metric.LOSS, Evaluation(0.5, math.nan, 10), Evaluation(0.4, math.nan, 10), False),
        (Metric.LOSS, Evaluation(0.5, math.nan, 10), Evaluation(math.nan, math.nan, 10), True),
    ],
)
def test_worse_is_by_the_bundles_metric(
    bundle: Bundle, metric: Metric, before: Evaluation, after: Evaluation, worse: bool
) -> None:
    spec = bundle.manifest.adapter
    run = LocalRun(decode(spec, bundle.path(INITIAL).read_bytes()), (1.0,), 1.0, 4)
    found = Personalization(before, after, metric, trained_on=40, held_out=10, scope=Scope.S, run=run)
    assert found.worse == worse
    assert json.loads(json.dumps(found.facts(), allow_nan=math.isnan(after.loss)))["worse"] == worse
