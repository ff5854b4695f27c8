"""torch and numpy agree, and what inject does merge undoes."""

import numpy as np
import pytest
import torch
from torch import nn

from ravan.bases import draw_bases
from ravan.errors import ExportError, SpecError, TargetError
from ravan.layout import H_view, Vector, s_view
from ravan.spec import AdapterSpec, Init
from ravan.torch import (
    RavanLinear,
    find_targets,
    inject,
    make_spec,
    merge,
    named_trainables,
    read_trainables,
    write_trainables,
)
from ravan.weights import weight_change


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 8, bias=False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention() for _ in range(2))
        self.pooler = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            assert isinstance(layer, Attention)
            y = layer.value(layer.query(x) * torch.sigmoid(layer.key(x)))
            x = torch.cat([y, x[..., :4]], -1)
        logits: torch.Tensor = self.classifier(torch.tanh(self.pooler(x[..., :8])))
        return logits


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def adapted(model: Model, **options: object) -> AdapterSpec:
    spec = make_spec(model, ["query", "value"], heads=3, rank=2, saved=["classifier"], **options)  # type: ignore[arg-type]
    inject(model, spec)
    return spec


def moved(spec: AdapterSpec) -> Vector:
    return np.random.default_rng(0).standard_normal(spec.size).astype(np.float32)


def test_patterns_match_last_parts_and_globs(model: Model) -> None:
    assert list(find_targets(model, ["query"])) == ["layers.0.query", "layers.1.query"]
    assert list(find_targets(model, ["layers.1.*"])) == ["layers.1.query", "layers.1.key", "layers.1.value"]
    assert list(find_targets(model, ["1.value"])) == ["layers.1.value"]


def test_a_pattern_without_a_layer_names_the_closest(model: Model) -> None:
    with pytest.raises(TargetError, match=r"'qery'.*layers.1.query"):
        find_targets(model, ["query", "qery"])
    with pytest.raises(TargetError, match=r"'clasifier'.*classifier"):
        make_spec(model, ["query"], heads=1, rank=1, saved=["clasifier"])


def test_a_layer_is_not_both_adapted_and_trained_whole(model: Model) -> None:
    with pytest.raises(TargetError, match="choose one"):
        make_spec(model, ["query"], heads=1, rank=1, saved=["query"])


def test_the_rank_follows_from_the_budget(model: Model) -> None:
    assert make_spec(model, ["query"], heads=2, budget=2 * 2 * 9).rank == 3
    with pytest.raises(SpecError):
        make_spec(model, ["query"], heads=2, budget=3)


def test_injecting_changes_nothing_at_first(model: Model) -> None:
    x = torch.randn(5, 12)
    before = model(x)
    adapted(model)
    torch.testing.assert_close(model(x), before)


def test_only_H_s_and_saved_tensors_are_trained(model: Model) -> None:
    spec = adapted(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(named_trainables(model, spec))
    assert sum(p.numel() for p in named_trainables(model, spec).values()) == spec.size


@pytest.mark.parametrize("init", Init)
def test_torch_and_numpy_compute_the_same_weight_change(model: Model, init: Init) -> None:
    spec = adapted(model, init=init)
    flat = moved(spec)
    write_trainables(model, spec, flat)
    for index, layer in enumerate(spec.layers):
        module = model.get_submodule(layer.name)
        assert isinstance(module, RavanLinear)
        products = H_view(spec, flat)[index] * s_view(spec, flat)[index][:, None, None]
        expected = weight_change(draw_bases(spec, layer), products)
        np.testing.assert_allclose(module.weight_change().detach().numpy(), expected, atol=1e-5)


def test_the_layer_computes_each_head_as_the_paper_writes_it() -> None:
    spec = AdapterSpec.from_dict(
        {
            "layers": [{"name": "l", "d_in": 6, "d_out": 5}],
            "heads": 2,
            "rank": 3,
            "init": "normal",
            "seed": 0,
            "saved": [],
        }
    )
    layer = RavanLinear(nn.Linear(6, 5), draw_bases(spec, spec.layers[0]))
    nn.init.normal_(layer.H)
    nn.init.normal_(layer.s)
    x = torch.randn(4, 6)
    A, B = layer.A.view(2, 3, 6), layer.B.view(5, 2, 3)
    heads = sum(layer.s[i] * (x @ A[i].T @ layer.H[i].T @ B[:, i].T) for i in range(2))
    torch.testing.assert_close(layer(x), layer.base(x) + heads)


def test_trainables_come_back_as_written(model: Model) -> None:
    spec = adapted(model)
    flat = moved(spec)
    write_trainables(model, spec, flat)
    np.testing.assert_array_equal(read_trainables(model, spec), flat)


def test_merging_keeps_the_outputs_and_leaves_a_plain_model(model: Model) -> None:
    plain_names = set(model.state_dict())
    spec = adapted(model)
    write_trainables(model, spec, np.float32(0.1) * moved(spec))
    x = torch.randn(5, 12)
    before = model(x)
    merge(model, spec)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
    assert set(model.state_dict()) == plain_names


def test_merging_infinite_weights_is_refused(model: Model) -> None:
    spec = adapted(model)
    write_trainables(model, spec, np.full(spec.size, 1e30, np.float32))
    with pytest.raises(ExportError, match="not finite"):
        merge(model, spec)


def test_a_spec_of_another_model_is_refused(model: Model) -> None:
    spec = make_spec(model, ["query"], heads=1, rank=1)
    model.layers[0].query = nn.Linear(4, 4)
    with pytest.raises(TargetError, match=r"layers.0.query is no linear layer of 12 to 12"):
        inject(model, spec)


@pytest.mark.parametrize(
    ("top", "adapted"),
    [(1, ["encoder.3", "decoder.1"]), (3, ["encoder.1", "encoder.2", "encoder.3", "decoder.0", "decoder.1"])],
)
def test_the_top_layers_are_those_of_encoder_and_decoder(top: int, adapted: list[str]) -> None:
    model = nn.ModuleDict(
        {name: nn.ModuleList(Attention() for _ in range(n)) for name, n in (("encoder", 4), ("decoder", 2))}
    )
    spec = make_spec(model, ["query"], heads=1, rank=2, top_layers=top)
    assert [layer.name for layer in spec.layers] == [f"{name}.query" for name in adapted]


@pytest.mark.parametrize("top", [0, 5])
def test_more_top_layers_than_there_are_is_refused(top: int) -> None:
    model = nn.ModuleDict(
        {"encoder": nn.ModuleList(Attention() for _ in range(4)), "decoder": nn.ModuleList([Attention()])}
    )
    with pytest.raises(TargetError, match=f"top {top} layers can't be adapted: 4 numbered"):
        make_spec(model, ["query"], heads=1, rank=2, top_layers=top)
