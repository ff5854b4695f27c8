"""Recomputation: the same gradients from less memory, in an order that onnxruntime can't change."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaModel, T5Config, T5Model

from export.forward import IR_VERSION, OPSET, export_forward
from export.onnx_builder import Builder
from export.recompute import Budget, Report, _bytes
from export.segments import find_segments
from export.seq2seq import AXES
from export.train_step import RECOMPUTED, Numbers, train_graph
from export.verify import perturbed
from ravan.bundle import Precision
from ravan.errors import ExportError
from ravan.runtime.names import ATTENTION_MASK, DECODER_INPUT_IDS, GRADIENTS, INPUT_IDS, LABELS, LOSS, TRAINABLES
from ravan.spec import AdapterSpec, Init
from ravan.torch import inject, make_spec, read_trainables

LAYERS, WIDTH, ROWS, LENGTH, TARGET = 4, 32, 6, 24, 20
SIZES = {"batch": 4096, "length": LENGTH, "target": TARGET}
"""Of the estimate only: large, so that whole MiB tell budgets apart."""
UNLIMITED = Budget(2**40, SIZES)


class LlamaClassifier(nn.Module):
    """A decoder with rotary positions and a causal mask, the mean of its last hidden state classified."""

    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
        config._attn_implementation = "eager"
        self.decoder, self.head = LlamaModel(config), nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        logits: Tensor = self.head(hidden.mean(1))
        return logits


def bert() -> nn.Module:
    config = BertConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    config.num_labels = 3
    config._attn_implementation = "eager"
    model: nn.Module = BertForSequenceClassification(config)
    return model


class T5Classifier(nn.Module):
    """An encoder and a decoder of half the layers each, whose last hidden states' mean is classified."""

    def __init__(self) -> None:
        super().__init__()
        config = T5Config(
            vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=LAYERS // 2, num_heads=4, is_encoder_decoder=True
        )
        config._attn_implementation = "eager"
        self.transformer, self.head = T5Model(config), nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids}
        logits: Tensor = self.head(self.transformer(**given, use_cache=False).last_hidden_state.mean(1))
        return logits


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], tuple[str, ...]]] = {
    "bert": (bert, ("attention.self.query", "attention.self.value"), ("bert.pooler", "classifier")),
    "llama": (LlamaClassifier, ("self_attn.q_proj", "self_attn.v_proj"), ("head",)),
    "t5": (T5Classifier, ("SelfAttention.q", "SelfAttention.v"), ("head",)),
}


class Exported:
    """A random model's forward graph, and trainables and a batch to run its training step with."""

    def __init__(self, kind: str, targets: tuple[str, ...] = ()) -> None:
        make, usual, saved = MODELS[kind]
        self.last_attentions = 2 if kind == "t5" else 1  # in the last layer, which is never rebuilt
        torch.manual_seed(0)
        model = make().eval()
        ids = torch.randint(0, 64, (ROWS, LENGTH))
        mask = torch.ones_like(ids)
        mask[0, LENGTH // 2 :] = 0
        self.spec: AdapterSpec = make_spec(
            model, targets or usual, heads=2, rank=2, budget=None, init=Init.GRAM_SCHMIDT, seed=0, saved=saved
        )
        inject(model, self.spec)
        batch = {INPUT_IDS: ids, ATTENTION_MASK: mask}
        if kind == "t5":
            batch[DECODER_INPUT_IDS] = ids[:, :TARGET].flip(1)
        self.forward = export_forward(model, self.spec, batch, AXES, {"length": 32, "target": 32})
        self.feed = {
            **{name: value.numpy() for name, value in batch.items()},
            LABELS: np.arange(ROWS) % 3,
            TRAINABLES: perturbed(self.spec, read_trainables(model, self.spec)),
        }

    def graph(self, budget: Budget | None, precision: Precision = Precision.FP32) -> ir.Model:
        return train_graph(self.forward, self.spec, Numbers(precision), budget)

    def least(self) -> Budget:
        """The smallest budget that can be met."""
        with pytest.raises(ExportError, match=r"at least (\d+) MiB .* allow \1 MiB") as caught:
            self.graph(Budget(0, SIZES))
        return Budget(int(str(caught.value).split(" MiB")[0].split()[-1]) * 2**20, SIZES)


@pytest.fixture(scope="module", params=list(MODELS))
def exported(request: pytest.FixtureRequest) -> Exported:
    return Exported(request.param)


def run(model: ir.Model, exported: Exported, options: ort.SessionOptions | None = None) -> tuple[float, np.ndarray]:
    loss, gradients = session(model, options).run([LOSS, GRADIENTS], exported.feed)
    return float(loss), gradients


def session(model: ir.Model, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    options = options or ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_every_layer_but_the_last_is_recomputed_for_the_least_memory(exported: Exported) -> None:
    report: Report = exported.graph(exported.least()).meta[RECOMPUTED]
    assert (report.segments, report.recomputed) == (LAYERS, LAYERS - 1)
    assert report.bytes_after < report.bytes_before / 2


def test_gradients_and_loss_stay_the_same(exported: Exported) -> None:
    loss, gradients = run(exported.graph(None), exported)
    again, rebuilt = run(exported.graph(exported.least()), exported)
    assert again == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(rebuilt, gradients, rtol=0, atol=1e-6 * np.abs(gradients).max())


def test_int8_clones_round_as_their_originals_do(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit in the graph as written; what onnxruntime then fuses, and so rounds otherwise, depends on readers."""
    monkeypatch.setattr("export.quantize.SMALLEST", WIDTH * WIDTH)  # the tiny models' layers
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    loss, gradients = run(exported.graph(UNLIMITED, Precision.INT8), exported, options)
    again, rebuilt = run(exported.graph(exported.least(), Precision.INT8), exported, options)
    assert again == loss
    np.testing.assert_array_equal(rebuilt, gradients)


def test_a_budget_that_everything_fits_changes_nothing(exported: Exported) -> None:
    with_budget, without = exported.graph(UNLIMITED), exported.graph(None)
    assert ir.to_proto(with_budget).SerializeToString() == ir.to_proto(without).SerializeToString()
    assert with_budget.meta[RECOMPUTED].recomputed == 0


def test_as_few_layers_as_possible_are_recomputed(exported: Exported) -> None:
    report: Report = exported.graph(UNLIMITED).meta[RECOMPUTED]
    seen = exported.graph(Budget(report.bytes_before - 1, SIZES)).meta[RECOMPUTED]
    assert seen.recomputed == 1
    assert seen.bytes_after < report.bytes_before


def test_layers_are_rebuilt_one_after_the_other(exported: Exported, tmp_path: Path) -> None:
    """A layer's clones run when the layer behind needs its own no more, and the first of them after the forward pass.

    Without the gates onnxruntime merges clones and originals; without all their waits it leaves gradients for later.
    """
    position, nodes = profiled(exported.graph(exported.least()), exported, tmp_path)
    gates = sorted(position[name] for name in nodes if name.startswith("recompute_") and name.endswith("_Cast"))
    assert len(gates) == LAYERS - 1
    softmaxes = {node.output[0]: position[name] for name, node in nodes.items() if node.op_type == "Softmax"}
    again = [when for out, when in softmaxes.items() if out.endswith("_again")]
    assert len(softmaxes) == 2 * len(again) + exported.last_attentions
    assert max(set(softmaxes.values()) - set(again)) < gates[0] < min(again)
    clones = {out: position[name] for name, node in nodes.items() for out in node.output if out.endswith("_again")}
    assert min(clones.values()) > gates[0]
    for name, node in nodes.items():
        for made in (clones[x] for x in node.input if x in clones):
            assert not any(made < gate < position[name] for gate in gates), f"{name} keeps a clone for too long"


def profiled(model: ir.Model, exported: Exported, folder: Path) -> tuple[dict[str, int], dict[str, onnx.NodeProto]]:
    """When onnxruntime ran each node, and the nodes it made of the graph, by name."""
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    opened = session(model, options)
    opened.run([LOSS, GRADIENTS], exported.feed)
    events = json.loads(Path(opened.end_profiling()).read_text())
    order = [e["name"].removesuffix("_kernel_time") for e in events if e["name"].endswith("_kernel_time")]
    position = {name: i for i, name in enumerate(order)}
    optimized = onnx.load(folder / "optimized.onnx").graph.node
    return position, {node.name: node for node in optimized if node.name in position}


def test_layers_below_the_first_adapter_are_left_alone() -> None:
    top = Exported("bert", tuple(f"layer.{i}.attention.self.{p}" for i in (2, 3) for p in ("query", "value")))
    report: Report = top.graph(top.least()).meta[RECOMPUTED]
    assert (report.segments, report.recomputed) == (2, 1)
    np.testing.assert_allclose(run(top.graph(top.least()), top)[1], run(top.graph(None), top)[1], atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 3])
def test_residual_blocks_without_attention_are_segments(blocks: int) -> None:
    graph = residual_graph(blocks)
    segments = find_segments(list(graph), graph.inputs, graph.outputs[0])
    assert [segment.nodes[-1].op_type for segment in segments] == ["Add"] * blocks + ["MatMul"]
    assert [segment.begin for segment in segments[1:]] == [segment.end for segment in segments[:-1]]


@pytest.mark.parametrize(
    ("axis", "length"), [(3, 3), ("length", 10), ("2*length", 20), ("length + 1", 11), ("(length//4)", 2)]
)
def test_the_size_of_an_axis_may_be_computed(axis: int | str, length: int) -> None:
    value = ir.val("x", ir.DataType.FLOAT, ["batch", axis])
    assert _bytes(value, {"batch": 2, "length": 10}) == 2 * length * 4
    with pytest.raises(ExportError, match="axis other of x is unknown"):
        _bytes(ir.val("x", ir.DataType.FLOAT, ["other"]), {"batch": 2})


def residual_graph(blocks: int) -> ir.Graph:
    """An embedding, x + relu(x W) some times over with a scale from the batch beside, and a last product."""
    x, scale = (ir.val(name, ir.DataType.FLOAT, ["batch", width]) for name, width in (("x", 8), ("scale", 1)))
    graph = ir.Graph([x, scale], [], nodes=[], opset_imports={"": OPSET}, name="residual")
    b, weight = Builder(graph, "r"), np.ones((8, 8), np.float32)
    hidden = b.op("MatMul", x, weight)
    for _ in range(blocks):
        hidden = b.op("Add", hidden, b.op("Mul", scale, b.op("Relu", b.op("MatMul", hidden, weight))))
    graph.outputs.append(b.op("MatMul", b.op("Tanh", hidden), weight))
    passes.ShapeInferencePass()(ir.Model(graph, ir_version=IR_VERSION))
    return graph
