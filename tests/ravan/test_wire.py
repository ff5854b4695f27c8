"""Coded uploads: small, the same on both ends to the bit, and nothing lost in the long run."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravan.errors import MalformedUpdate, NotFinite, UpdateError, WrongFormat, WrongScale, WrongSpec
from ravan.parts import over
from ravan.sizes import header_size
from ravan.spec import AdapterSpec, LayerSpec, TensorSpec
from ravan.update import Update, encode
from ravan.wire import WireFormat, largest_upload, nothing_left_out, pack, packed_size, unpack
from tests.ravan.updates import full_update, random_update, seeds

SPEC = AdapterSpec(
    (LayerSpec("q", 6, 6), LayerSpec("v", 6, 6)), 3, 2, saved=(TensorSpec("head", (4, 2)), TensorSpec("bias", (2,)))
)
CODED = (WireFormat.FP16, WireFormat.INT8)
STEPS = {WireFormat.FP16: 2**11, WireFormat.INT8: 2 * 127}
"""The largest change of a part over the largest error."""
coded = st.sampled_from(CODED)
sizes = st.sampled_from([0.0, 1e-42, 1e-30, 1e-6, 1.0, 1e6, 1e30])


def scene(seed: int, size: float = 0.1) -> tuple[Update, Update]:
    """An adapter, and what a device made of some of its heads."""
    generator = np.random.default_rng(seed)
    base, change = full_update(SPEC, generator), random_update(SPEC, generator)
    with np.errstate(under="ignore"):
        sH = (base.sH[change.heads.ravel()] + np.float32(size) * change.sH).astype(np.float32)
        return base, Update(change.heads, sH, base.saved + np.float32(size) * change.saved)


def filled(update: Update) -> tuple[np.ndarray, np.ndarray]:
    whole = over(nothing_left_out(SPEC), update)
    return whole.sH.astype(np.float64), whole.saved.astype(np.float64)


@given(seeds)
def test_fp32_is_the_exact_format_byte_for_byte(seed: int) -> None:
    base, trained = scene(seed)
    packed = pack(SPEC, WireFormat.FP32, base, trained, nothing_left_out(SPEC))
    assert packed.data == encode(SPEC, trained)
    assert not packed.left_out.sH.any()
    assert encode(SPEC, unpack(SPEC, WireFormat.FP32, base, packed.data)) == packed.data


@given(seeds, coded, sizes)
def test_what_is_left_out_is_what_the_server_lacks_and_at_most_half_a_step(
    seed: int, wire: WireFormat, size: float
) -> None:
    base, trained = scene(seed, size)
    packed = pack(SPEC, wire, base, trained, nothing_left_out(SPEC))
    assert len(packed.data) == packed_size(SPEC, wire, int(trained.heads.sum())) <= largest_upload(SPEC, wire)
    arrived = unpack(SPEC, wire, base, packed.data)
    np.testing.assert_array_equal(arrived.heads, trained.heads)
    carried = trained.heads.ravel()
    lacking = trained.sH.astype(np.float64) - arrived.sH
    np.testing.assert_array_equal(packed.left_out.sH[carried], lacking.astype(np.float32))
    assert not packed.left_out.sH[~carried].any()
    np.testing.assert_array_equal(
        packed.left_out.saved, (trained.saved.astype(np.float64) - arrived.saved).astype("f4")
    )
    for before, after, lacks in zip(base.sH[carried], trained.sH, lacking, strict=True):
        largest = np.abs(after.astype(np.float64) - before).max()
        rounding = np.spacing(np.abs(after).max()) + 1e-44
        assert np.abs(lacks).max() <= largest / STEPS[wire] * 1.001 + rounding


@given(seeds, coded)
def test_over_many_uploads_everything_arrives_but_the_last_rest(seed: int, wire: WireFormat) -> None:
    generator, rest = np.random.default_rng(seed), nothing_left_out(SPEC)
    meant, arrived = filled(rest), filled(rest)
    base = full_update(SPEC, generator)
    for _ in range(12):
        change = random_update(SPEC, generator)
        trained = Update(change.heads, base.sH[change.heads.ravel()] + change.sH, base.saved + change.saved)
        packed = pack(SPEC, wire, base, trained, rest)
        got, rest = unpack(SPEC, wire, base, packed.data), packed.left_out
        for total, update in ((meant, trained), (arrived, got)):
            total[0][change.heads.ravel()] += update.sH - base.sH[change.heads.ravel()].astype(np.float64)
            total[1][:] += update.saved - base.saved.astype(np.float64)
        base = over(base, got)
    np.testing.assert_allclose(meant[0] - arrived[0], rest.sH, atol=1e-5)
    np.testing.assert_allclose(meant[1] - arrived[1], rest.saved, atol=1e-5)
    assert np.abs(rest.sH).max() < 8 * 2 / STEPS[wire]


@given(seeds, coded)
def test_heads_that_are_not_sent_keep_their_rest(seed: int, wire: WireFormat) -> None:
    base, trained = scene(seed)
    rest = full_update(SPEC, np.random.default_rng(seed + 1))
    before = encode(SPEC, rest)
    packed = pack(SPEC, wire, base, trained, rest)
    idle = ~trained.heads.ravel()
    np.testing.assert_array_equal(packed.left_out.sH[idle], rest.sH[idle])
    assert encode(SPEC, rest) == before


@given(seeds)
def test_int8_takes_a_quarter_of_the_bytes(seed: int) -> None:
    spec = AdapterSpec((LayerSpec("q", 384, 384),) * 1, 4, 48, saved=(TensorSpec("head", (20, 384)),))
    update = full_update(spec, np.random.default_rng(seed))
    exact = len(pack(spec, WireFormat.FP32, update, update, nothing_left_out(spec)).data)
    assert len(pack(spec, WireFormat.INT8, update, update, nothing_left_out(spec)).data) < 0.255 * exact
    assert len(pack(spec, WireFormat.FP16, update, update, nothing_left_out(spec)).data) < 0.505 * exact


@settings(max_examples=300)
@given(st.data(), coded)
def test_any_changed_byte_is_refused_or_gives_finite_values(draw: st.DataObject, wire: WireFormat) -> None:
    base, trained = scene(0)
    data = bytearray(pack(SPEC, wire, base, trained, nothing_left_out(SPEC)).data)
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        update = unpack(SPEC, wire, base, bytes(data))
    except UpdateError:
        return
    assert np.isfinite(update.sH).all()
    assert np.isfinite(update.saved).all()


@pytest.mark.parametrize("wire", CODED)
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf"), -1.0, -0.0])
def test_a_scale_that_is_no_size_is_refused(wire: WireFormat, scale: float) -> None:
    base = full_update(SPEC, np.random.default_rng(0))
    data = pack(SPEC, wire, base, base, nothing_left_out(SPEC)).data
    for position in range(SPEC.s_size + len(SPEC.saved)):
        start = header_size(SPEC.s_size) + 4 * position
        with pytest.raises(WrongScale):
            unpack(SPEC, wire, base, data[:start] + struct.pack("<f", scale) + data[start + 4 :])


def test_values_beyond_float32_are_refused() -> None:
    base, trained = scene(0)
    data = pack(SPEC, WireFormat.INT8, base, trained, nothing_left_out(SPEC)).data
    start = header_size(int(trained.heads.sum()))
    with pytest.raises(NotFinite):
        unpack(SPEC, WireFormat.INT8, base, data[:start] + struct.pack("<f", 3e38) + data[start + 4 :])
    half = pack(SPEC, WireFormat.FP16, base, trained, nothing_left_out(SPEC)).data
    for value in (float("nan"), float("inf")):
        with pytest.raises(NotFinite):
            unpack(SPEC, WireFormat.FP16, base, half[:-2] + struct.pack("<e", value))


@pytest.mark.parametrize("wire", CODED)
def test_other_sizes_formats_and_specs_are_refused(wire: WireFormat) -> None:
    base, trained = scene(0)
    data = pack(SPEC, wire, base, trained, nothing_left_out(SPEC)).data
    for wrong in (data[:-1], data + b"\0", data[:60]):
        with pytest.raises(MalformedUpdate):
            unpack(SPEC, wire, base, wrong)
    for other in set(WireFormat) - {wire}:
        with pytest.raises(WrongFormat):
            unpack(SPEC, other, base, data)
    seeded = AdapterSpec(SPEC.layers, SPEC.heads, SPEC.rank, seed=1, saved=SPEC.saved)
    with pytest.raises(WrongSpec):
        unpack(seeded, wire, base, data)


def test_an_upload_without_heads_or_saved_tensors_is_possible() -> None:
    spec = AdapterSpec(SPEC.layers, SPEC.heads, SPEC.rank)
    base, none = full_update(spec, np.random.default_rng(0)), np.zeros((2, 3), np.bool_)
    empty = Update(none, np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32))
    for wire in WireFormat:
        arrived = unpack(spec, wire, base, pack(spec, wire, base, empty, nothing_left_out(spec)).data)
        assert not arrived.heads.any()
