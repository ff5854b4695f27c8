"""Image classifiers of every family, from a model folder to a merged model."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    PreTrainedModel,
)

from export.image_classifier import image_classifier
from ravan.errors import ExportError
from tests.e2e.processes import edge_python
from tests.families.harness import Family, Figures, check_family, every
from tests.images import HEIGHT, MEAN, SHAPES, STD, WIDTH, drawings, write_npz, write_vit

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": (HEIGHT, WIDTH),
    "patch_size": 4,
    "num_channels": 3,
    "initializer_range": 0.2,  # wide enough that so small a model tells images apart
}
PROCESSOR = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3}


def write(folder: Path, build: Callable[[], PreTrainedModel], processor: dict[str, Any] = PROCESSOR) -> None:
    torch.manual_seed(0)
    build().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def clip_config() -> CLIPConfig:
    text = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPConfig(text_config=text, vision_config=TOWER | {"image_size": HEIGHT}, projection_dim=16)


def dinov2() -> PreTrainedModel:
    config = Dinov2Config(**TOWER | {"image_size": 24}, mlp_ratio=2)
    return Dinov2ForImageClassification(config)


def labelled(folder: Path) -> Path:
    return write_npz(folder / "data.npz", *drawings(48, 1, 3))


def family(model: str, saved: str, make: Callable[[Path], object]) -> Family:
    recipe = partial(image_classifier, labels=SHAPES)
    return Family(model, "image-classification", "q_proj, v_proj", saved, recipe, make, labelled)


FAMILIES = (
    family("ViT", "classifier", partial(write_vit, channels=3)),
    family("DeiT", "classifier", partial(write, build=lambda: DeiTForImageClassification(DeiTConfig(**TOWER)))),
    family(
        "DeiT, distilled",
        "cls_classifier, distillation_classifier",
        partial(write, build=lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**TOWER))),
    ),
    family("CLIP", "classifier (on the vision tower)", partial(write, build=lambda: CLIPModel(clip_config()))),
    family(
        "DINOv2",
        "classifier",
        partial(write, build=dinov2, processor=PROCESSOR | {"size": {"height": HEIGHT, "width": WIDTH}}),
    ),
)


@pytest.mark.parametrize("family", every(FAMILIES))
def test_a_family_goes_all_the_way(family: Family, tmp_path: Path, report: Callable[[Family, Figures], None]) -> None:
    report(family, check_family(family, tmp_path, edge_python()))


def test_a_whole_clip_checkpoint_gives_its_vision_tower(tmp_path: Path) -> None:
    write(tmp_path / "clip", lambda: CLIPModel(clip_config()))
    expected = dict(CLIPModel.from_pretrained(tmp_path / "clip").named_parameters())
    model = image_classifier(tmp_path / "clip", SHAPES).model
    assert isinstance(model, CLIPForImageClassification)
    for name, value in model.named_parameters():
        if not name.startswith("classifier"):
            assert torch.equal(value, expected[name]), name


def test_dinov2_takes_the_size_that_its_processor_makes(tmp_path: Path) -> None:
    crop = {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 12}}
    write(tmp_path / "crop", dinov2, PROCESSOR | crop)
    image = image_classifier(tmp_path / "crop", SHAPES).settings["image"]
    assert (image.height, image.width, image.tokens) == (16, 12, 4 * 3 + 1)
    write(tmp_path / "any", dinov2, PROCESSOR | {"size": {"shortest_edge": 20}})
    assert image_classifier(tmp_path / "any", SHAPES).settings["image"].height == 24


def test_the_distillation_token_of_deit_counts(tmp_path: Path) -> None:
    write(tmp_path / "deit", lambda: DeiTForImageClassification(DeiTConfig(**TOWER)))
    assert image_classifier(tmp_path / "deit", SHAPES).settings["image"].tokens == (HEIGHT // 4) * (WIDTH // 4) + 2


def test_a_size_that_is_no_number_is_named(tmp_path: Path) -> None:
    write(tmp_path / "dinov2", dinov2, PROCESSOR | {"size": {"height": "tall", "width": 12}})
    with pytest.raises(ExportError, match=r"The image size in preprocessor_config.json is no number"):
        image_classifier(tmp_path / "dinov2", SHAPES)
