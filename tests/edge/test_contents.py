"""What an owner is shown of an upload is what is in it, to the byte."""

import numpy as np
import pytest

from edge.contents import contents
from ravan.errors import UpdateError
from ravan.spec import AdapterSpec
from ravan.update import Update
from ravan.wire import WireFormat, nothing_left_out, pack


def drawn(spec: AdapterSpec, heads: list[int]) -> tuple[Update, Update]:
    """A round's adapter, and an update of some heads."""
    generator = np.random.default_rng(1)
    base = Update.full(
        generator.normal(size=spec.H_shape).astype(np.float32),
        generator.normal(size=spec.saved_size).astype(np.float32),
    )
    mask = np.zeros(spec.s_size, np.bool_)
    mask[heads] = True
    moved = base.sH[mask] + generator.normal(size=(len(heads), spec.rank, spec.rank)).astype(np.float32)
    return base, Update(mask.reshape(base.heads.shape), moved, base.saved + np.float32(0.5))


@pytest.mark.parametrize("wire", WireFormat)
@pytest.mark.parametrize("heads", [[0, 2, 5], [], [0, 1, 2, 3, 4, 5]])
def test_every_byte_of_an_upload_is_accounted_for(spec: AdapterSpec, wire: WireFormat, heads: list[int]) -> None:
    base, update = drawn(spec, heads)
    data = pack(spec, wire, base, update, nothing_left_out(spec)).data
    found = contents(spec, wire, base, data)
    assert sum(content.bytes for content in found) == len(data)
    assert len(found) == 1 + len(heads) + len(spec.saved)


def test_names_shapes_and_norms_are_those_of_the_values(spec: AdapterSpec) -> None:
    base, update = drawn(spec, [2, 3])
    data = pack(spec, WireFormat.FP32, base, update, nothing_left_out(spec)).data
    _, first, second, weight, bias = contents(spec, WireFormat.FP32, base, data)
    assert (first.name, second.name) == ("encoder.0.query s2 H2", "encoder.0.value s0 H0")
    assert (weight.name, weight.shape, bias.shape) == ("classifier.weight", (2, 5), (2,))
    assert first.norm == pytest.approx(float(np.linalg.norm(update.sH[0])))
    assert first.moved == pytest.approx(float(np.linalg.norm(update.sH[0] - base.sH[2])))
    assert weight.moved == pytest.approx(0.5 * 10**0.5, rel=1e-5)
    assert bias.norm == pytest.approx(float(np.linalg.norm(update.saved[10:])))


def test_what_is_no_upload_is_refused(spec: AdapterSpec) -> None:
    base, _ = drawn(spec, [])
    with pytest.raises(UpdateError):
        contents(spec, WireFormat.INT8, base, b"x" * 100)
