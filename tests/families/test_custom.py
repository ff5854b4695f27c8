"""Torch modules that transformers does not know, with every loss, from a factory to a merged model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from export.custom import custom_model
from tests.custom_models import write_tags, write_values, write_windows
from tests.e2e.processes import edge_python
from tests.families.harness import Family, Figures, check_family, every

ALL = "patches, query, key, value (every linear layer but the last)"
ENCODER = "into, out_proj, linear1, linear2 (of nn.TransformerEncoder)"


def family(model: str, adapted: str, factory: str, write: Callable[[Path], Path]) -> Family:
    return Family(
        model,
        "custom",
        adapted,
        "head",
        lambda _: custom_model(f"tests.custom_models:{factory}"),
        lambda folder: None,
        lambda folder: write(folder / "data.npz"),
    )


FAMILIES = (
    family("torch module, cross entropy", ALL, "windows", write_windows),
    family("torch module, token cross entropy", ENCODER, "tagger", write_tags),
    family("torch module, squared error", "query, value (as its factory says)", "regression", write_values),
)


@pytest.mark.parametrize("family", every(FAMILIES))
def test_a_module_goes_all_the_way(family: Family, tmp_path: Path, report: Callable[[Family, Figures], None]) -> None:
    report(family, check_family(family, tmp_path, edge_python()))
