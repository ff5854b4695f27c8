"""A factory that returns the wrong thing gets one sentence that says which part; the right thing becomes a bundle."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from export.architectures import Architecture
from export.bundle import ExportOptions, export_bundle
from export.cli import app
from export.custom import custom_model
from export.custom_checks import checked
from export.inspect import facts
from export.lora import write_lora
from export.merge import merge_bundle
from ravan.bundle import PREFIX, Bundle, Precision, Task, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.errors import BundleError, ExportError, RavanError
from ravan.inputs import CustomSettings, Loss, Metric, TensorInput
from ravan.runtime.adapter import write_adapter
from ravan.runtime.names import LOGITS
from ravan.runtime.session import open_session
from ravan.torch import CustomModel, find_targets
from ravan.update import Update
from tests.conftest import ROOT
from tests.custom_models import LONGEST, NAMES, STEPS, Tagger, regression, tagger, windows
from tests.ravan.updates import full_update
from tests.walks import CHANNELS, TAGS

OPTIONS = ExportOptions(heads=2, rank=3)
X = torch.zeros(4, STEPS, CHANNELS)


class Returns(nn.Module):
    """What a function of x gives, with a linear layer to adapt."""

    def __init__(self, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(2, 2), nn.Linear(2, 3)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        return self.give(x)


def model(give: Callable[[Tensor], Any], x: Tensor | None = None, **parts: Any) -> CustomModel:
    return CustomModel(module=Returns(give), batch={"x": torch.randn(3, 2) if x is None else x}, **parts)


def but(made: CustomModel, **parts: Any) -> CustomModel:
    return replace(made, **parts)


def made_by(made: object, folder: Path) -> str:
    """A factory in a file that returns this, by its name."""
    name = f"tests_factory_{len(FACTORIES)}"
    FACTORIES[name] = made
    (folder / "model.py").write_text(
        f"from tests.export.test_custom import FACTORIES\ndef make():\n    return FACTORIES[{name!r}]\n"
    )
    return f"{folder / 'model.py'}:make"


FACTORIES: dict[str, object] = {}


@pytest.fixture
def bundle(tagger_bundle: Bundle) -> Bundle:
    return tagger_bundle


def test_the_manifest_says_what_a_batch_is(bundle: Bundle) -> None:
    manifest = open_bundle(bundle.folder).manifest
    assert manifest.task is Task.CUSTOM
    assert manifest.inputs == (
        TensorInput("x", "float32", ("batch", "time", CHANNELS)),
        TensorInput("present", "bool", ("batch", "time")),
        TensorInput("labels", "int64", ("batch", "time")),
    )
    assert manifest.custom == CustomSettings(Loss.TOKEN_CROSS_ENTROPY, Metric.ACCURACY, {"time": LONGEST})
    assert manifest.labels == tuple(map(str, range(TAGS)))
    assert {name for name in manifest.files if name not in OPTIONAL} == set(manifest.task.device_files)
    assert set(manifest.source_files) == {"source/model.safetensors", "source/factory.json"}
    assert facts(bundle)["inputs"]["x"] == f"float32 [batch, time, {CHANNELS}]"
    assert manifest.verification["gradient"] < 1e-5


def test_by_default_all_but_the_last_linear_layer_are_adapted_and_that_is_trained_whole(bundle: Bundle) -> None:
    spec = bundle.manifest.adapter
    assert [layer.name.rsplit(".", 1)[-1] for layer in spec.layers] == ["into", "out_proj", "linear1", "linear2"]
    assert [tensor.name for tensor in spec.saved] == ["head.weight", "head.bias"]


def test_the_factory_s_patterns_are_taken(tmp_path: Path) -> None:
    recipe = custom_model(made_by(regression(), tmp_path))
    assert recipe.architecture() == Architecture(("query", "value"), ("head",))
    only_saved = custom_model(made_by(replace(windows(), saved=("blocks.1", "head")), tmp_path)).architecture()
    assert find_targets(windows().module, only_saved.targets).keys() == {
        "patches",
        *(f"blocks.0.{name}" for name in ("query", "key", "value")),
    }


def test_int8_and_a_frozen_prefix_work_for_modules_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", 12 * 16)
    options = replace(OPTIONS, precision=Precision.INT8, top_layers=1, targets=("query", "value"), saved=("head",))
    made = export_bundle(lambda: custom_model("tests.custom_models:windows"), options, tmp_path / "out", "windows")
    assert PREFIX in made.manifest.files
    assert made.manifest.verification["int8_cosine"] > 0.95


def test_of_sequences_without_a_mask_no_prefix_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.quantize.SMALLEST", CHANNELS * 16)
    options = replace(OPTIONS, targets=("linear2",), saved=("head",))
    made = export_bundle(lambda: custom_model("tests.custom_models:tagger"), options, tmp_path / "out", "tagger")
    assert PREFIX not in made.manifest.files


def test_a_merged_module_is_a_state_dict_and_a_graph(bundle: Bundle, tmp_path: Path) -> None:
    full = full_update(bundle.manifest.adapter, np.random.default_rng(0))
    adapter = Update(full.heads, np.float32(0.05) * full.sH, np.float32(0.05) * full.saved)
    write_adapter(tmp_path / "adapter.safetensors", bundle.manifest, adapter, {})
    merged = merge_bundle(bundle, tmp_path / "adapter.safetensors", tmp_path / "merged")
    assert max(merged.transformers, merged.onnx) < 1e-5
    plain = Tagger().eval()
    plain.load_state_dict(load_file(tmp_path / "merged" / "model.safetensors"))
    x, present = torch.randn(3, 7, CHANNELS), torch.arange(7) < torch.tensor([[7], [3], [5]])
    with torch.no_grad():
        expected = plain(x, present).numpy()
    (seen,) = open_session(tmp_path / "merged" / "model.onnx").run(
        [LOGITS], {"x": x.numpy(), "present": present.numpy()}
    )
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_an_adapter_of_a_module_can_be_written_as_lora(bundle: Bundle, tmp_path: Path) -> None:
    spec = bundle.manifest.adapter
    write_adapter(tmp_path / "a.safetensors", bundle.manifest, full_update(spec, np.random.default_rng(0)), {})
    written = write_lora(bundle, tmp_path / "a.safetensors", tmp_path / "lora")
    assert (written.rank, written.layers) == (spec.heads * spec.rank, len(spec.layers))


def test_merging_needs_the_code_that_the_bundle_was_made_by(tmp_path: Path) -> None:
    factory = made_by(windows(), tmp_path)
    made = export_bundle(lambda: custom_model(factory), OPTIONS, tmp_path / "bundle", "own")
    write_adapter(
        tmp_path / "a.safetensors", made.manifest, full_update(made.manifest.adapter, np.random.default_rng(0)), {}
    )
    made_by(regression(), tmp_path)
    with pytest.raises(BundleError, match="makes another module than when the bundle was exported"):
        merge_bundle(made, tmp_path / "a.safetensors", tmp_path / "merged")
    (tmp_path / "model.py").unlink()
    with pytest.raises(BundleError, match=r"which is needed again: .*model.py does not exist"):
        merge_bundle(made, tmp_path / "a.safetensors", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"module": 1}, "returned dict: return a ravan.torch.CustomModel"),
        (CustomModel(module=torch.relu, batch={"x": X}), "module is builtin_function_or_method, not a torch module"),  # type: ignore[arg-type]
        (model(lambda x: x, loss="hinge"), "loss is 'hinge', not one of cross-entropy, token-cross-entropy, mean-sq"),
        (model(lambda x: x, metric="f1"), "metric is 'f1', for a cross-entropy there is accuracy, perplexity, loss"),
        (model(lambda x: x, loss="mean-squared-error", metric="accuracy"), "for a mean-squared-error there is loss"),
        (but(windows(), batch=[X]), "batch is no dictionary of named tensors"),
        (but(windows(), batch={}), "batch is no dictionary of named tensors"),
        (but(windows(), batch={"labels": X}), "batch has an input named 'labels': use a name such as x"),
        (but(windows(), batch={"a b": X}), "batch has an input named 'a b'"),
        (but(windows(), batch={"x": np.zeros((4, 2))}), "batch['x'] is ndarray, not a tensor"),
        (but(windows(), batch={"x": X.double()}), "batch['x'] is float64, not one of float32, int64, int32, bool"),
        (but(windows(), batch={"x": X[:1]}), "batch['x'] has 1 row: give at least 2"),
        (but(windows(), batch={"x": X, "y": X[:3]}), "batch['y'] is [3, 24, 3]: give every input the same number"),
        (but(windows(), batch={"x": torch.tensor(1.0)}), "batch['x'] is []: give every input"),
        (but(windows(), batch={"x": X * torch.nan}), "batch['x'] holds a value that is not finite"),
        (but(windows(), dynamic={"x": 1}), "dynamic is no dictionary"),
        (but(windows(), dynamic={"z": {1: "time"}}), "dynamic names 'z', which the batch does not have"),
        (but(windows(), dynamic={"x": {0: "rows"}}), "dynamic names axis 0 of 'x', which has axes 1 to 2"),
        (but(windows(), dynamic={"x": {1: "batch"}}), "dynamic calls axis 1 of 'x' 'batch'"),
        (but(windows(), dynamic={"x": {1: "n", 2: "n"}}), "axis 'n' is 24 and 3 in the example batch"),
        (but(tagger(), longest={"tiem": 9}), "longest names 'tiem', which dynamic does not have"),
        (but(tagger(), longest={"time": 1}), "longest['time'] is 1, not a number from 2 on"),
        (but(tagger(), longest=9), "longest is no dictionary"),
        (but(windows(), targets="query"), "targets is 'query', not a tuple of strings"),
        (but(windows(), saved=(1,)), "saved is (1,), not a tuple of strings"),
        (but(windows(), label_names=("a", "a", "b")), "label_names holds a name twice"),
        (but(windows(), label_names=("a", "b")), "label_names has 2 names and the outputs 3 classes"),
        (but(regression(), label_names=("a", "b")), "label_names mean nothing for a mean-squared-error"),
        (model(lambda x: x.matmul(x)), "The module fails on x [3, 2] (RuntimeError: mat1 and mat2 shapes"),
        (model(lambda x: (x, x)), "The module returns tuple for x [3, 2]: return one tensor"),
        (model(lambda x: x.double()), "module returns float64 [3, 2] for 3 rows: return float32 with the rows first"),
        (model(lambda x: x[:2]), "module returns float32 [2, 2] for 3 rows: return float32 with the rows first"),
        (model(lambda x: x[:, 0]), "return [rows, classes] with two classes or more for cross-entropy"),
        (model(lambda x: x[:, :1]), "return [rows, classes] with two classes or more for cross-entropy"),
        (model(lambda x: x, loss="token-cross-entropy"), "return [rows, ..., classes] with two classes or more"),
        (model(lambda x: x / 0), "module returns float32 [3, 2] for 3 rows, not all finite"),
        (model(lambda x: x + torch.rand(3, 2)), "gives other outputs for the same batch: draw nothing in evaluation"),
        (model(lambda x: x - x.mean(0)), "gives a row other outputs when it is alone: let no row depend on others"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_factory_s_result_is_said_by_its_part(made: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as refused:
        custom_model(made_by(made, tmp_path))
    assert reason in str(refused.value)
    assert str(refused.value).endswith(".")


def test_parameters_that_are_not_float32_are_named() -> None:
    half = windows()
    half.module.get_submodule("head").half()
    with pytest.raises(ExportError, match=r"f: parameter head.weight of module is float16 on cpu: call .float\(\)"):
        checked(half, "f")


def test_a_module_without_linear_layers_says_what_to_do(tmp_path: Path) -> None:
    lonely = CustomModel(module=nn.Linear(2, 3), batch={"input": torch.randn(3, 2)})
    with pytest.raises(ExportError, match="has no linear layer to adapt"):
        custom_model(made_by(lonely, tmp_path)).architecture()


def test_an_axis_that_is_not_dynamic_after_all_is_named(tmp_path: Path) -> None:
    fixed = replace(windows(), dynamic={"x": {1: "time"}})
    with pytest.raises(ExportError, match=r"The module fails on x \[3, 17, 3\] .*: correct module, batch or dynamic"):
        export_bundle(lambda: custom_model(made_by(fixed, tmp_path)), OPTIONS, tmp_path / "out", "own")
    assert not (tmp_path / "out").exists()


def test_an_operator_without_a_gradient_is_named(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.linear(x).cumsum(1))

    made = CustomModel(module=Sorted(), batch={"x": torch.randn(3, 2)})
    with pytest.raises(ExportError, match=r"Operator CumSum .* has no gradient rule"):
        export_bundle(lambda: custom_model(made_by(made, tmp_path)), OPTIONS, tmp_path / "out", "own")


def test_a_graph_that_onnxruntime_refuses_is_no_bundle(tmp_path: Path) -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bags, self.linear, self.head = nn.EmbeddingBag(9, 4, mode="sum"), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Any:
            return self.head(self.linear(self.bags(ids)))

    made = CustomModel(module=Bags(), batch={"ids": torch.randint(0, 9, (4, 3))})
    with pytest.raises(ExportError, match=r"none that onnxruntime takes, replace what it names: .* Op \(Loop\)"):
        export_bundle(lambda: custom_model(made_by(made, tmp_path)), OPTIONS, tmp_path / "out", "own")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("factory", "code", "reason"),
    [
        ("windows", 2, "windows names no object: give package.module:name or folder/file.py:name."),
        ("no_such_module:make", 2, "no_such_module can't be imported (ModuleNotFoundError: No module named"),
        ("missing.py:make", 2, "missing.py does not exist"),
        ("broken.py:make", 2, "broken.py can't be imported (SyntaxError: "),
        ("fine.py:other", 2, "fine.py has no other"),
        ("fine.py:NUMBER", 3, "fine.py:NUMBER is int: name a function that returns a CustomModel."),
        ("fine.py:fails", 3, "fine.py:fails failed (KeyError: 'weights'): correct it."),
    ],
)
def test_a_factory_that_is_not_there_or_fails_is_one_sentence(
    factory: str, code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("def make(:\n")
    (tmp_path / "fine.py").write_text("NUMBER = 1\ndef fails():\n    return {}['weights']\n")
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["custom", factory, "--rank", "2", "--out", "out"])
    assert isinstance(ran.exception, RavanError)
    assert ran.exception.exit_code == code
    assert reason in str(ran.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_finds_modules_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(ROOT / "tests" / "walks.py", package / "walks.py")
    code = (ROOT / "tests" / "custom_models.py").read_text().replace("tests.walks", "mine.walks")
    (package / "models.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["custom", "mine.models:windows", "--rank", "2", "--out", "out"])
    assert ran.exit_code == 0, ran.output
    assert open_bundle(tmp_path / "out").manifest.labels == NAMES
    shown = CliRunner().invoke(app, ["inspect", "out"], env={"COLUMNS": "200"})
    assert "x float32 [batch, 24, 3], labels int64 [batch]" in shown.output
