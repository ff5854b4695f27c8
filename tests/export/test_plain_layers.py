"""Layers are taken apart for adapters and put together for saving, and the model computes what it did."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    GPT2Config,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from export.plain_layers import TURNED, put_together, take_apart

GPT2 = GPT2Config(vocab_size=20, n_embd=32, n_layer=1, n_head=4, n_positions=16, initializer_range=0.3)
MODERNBERT = ModernBertConfig(
    vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, pad_token_id=0
)
IDS = torch.arange(24).view(2, 12) % 20


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModel.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # biases too
    return model


@torch.no_grad()
def hidden(model: PreTrainedModel) -> Tensor:
    out: Tensor = model(input_ids=IDS).last_hidden_state
    return out


@pytest.mark.parametrize("config", [GPT2, MODERNBERT], ids=lambda config: config.model_type)
def test_a_model_taken_apart_computes_the_same(config: PreTrainedConfig) -> None:
    model = model_of(config)
    expected = hidden(model)
    turned = {name.rsplit(".", 1)[-1] for name, layer in model.named_modules() if isinstance(layer, Conv1D)}
    assert turned == set(TURNED.get(config.model_type, ()))
    take_apart(model)
    torch.testing.assert_close(hidden(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "layer", "turned"),
    [(GPT2, "h.0.attn.c_attn", True), (MODERNBERT, "layers.0.attn.Wqkv", False)],
    ids=["gpt2", "modernbert"],
)
def test_the_parts_are_query_key_and_value(config: PreTrainedConfig, layer: str, *, turned: bool) -> None:
    model = model_of(config)
    weight = model.get_parameter(f"{layer}.weight").detach().clone()
    rows = weight.T if turned else weight
    take_apart(model)
    for i, part in enumerate(("query", "key", "value")):
        torch.testing.assert_close(model.get_parameter(f"{layer}.{part}.weight"), rows[32 * i : 32 * (i + 1)])


@pytest.mark.parametrize("config", [GPT2, MODERNBERT], ids=lambda config: config.model_type)
def test_a_saved_model_is_transformers_own(config: PreTrainedConfig, tmp_path: Path) -> None:
    model = model_of(config)
    names = set(model.state_dict())
    take_apart(model)
    apart = set(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)  # what is saved is the present value
    expected = hidden(model)
    with put_together(model):
        assert set(model.state_dict()) == names
        assert any(isinstance(module, Conv1D) for module in model.modules()) == (config is GPT2)
        model.save_pretrained(tmp_path)
    assert set(model.state_dict()) == apart
    loaded = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    torch.testing.assert_close(hidden(loaded), expected, atol=1e-5, rtol=1e-5)
