import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravan.errors import MalformedUpdate, NotFinite, UnknownHead, UpdateError, WrongFormat, WrongShape, WrongSpec
from ravan.layout import H_view, s_view, saved_view
from ravan.sizes import encoded_size, largest_size
from ravan.spec import AdapterSpec, LayerSpec, TensorSpec
from ravan.update import Update, decode, encode
from tests.ravan.updates import full_update, random_update, seeds

SPEC = AdapterSpec((LayerSpec("q", 6, 6), LayerSpec("v", 6, 6)), 3, 2, saved=(TensorSpec("head", (4, 2)),))
HEADER = 52


@pytest.fixture
def data() -> bytes:
    return encode(SPEC, full_update(SPEC, np.random.default_rng(0)))


@given(seeds)
def test_an_update_survives_its_bytes_bit_for_bit(seed: int) -> None:
    update = random_update(SPEC, np.random.default_rng(seed))
    data = encode(SPEC, update)
    again = decode(SPEC, data)
    np.testing.assert_array_equal(again.heads, update.heads)
    assert again.sH.tobytes() == update.sH.tobytes()
    assert again.saved.tobytes() == update.saved.tobytes()
    assert encode(SPEC, again) == data
    assert len(data) == encoded_size(SPEC, int(update.heads.sum())) <= largest_size(SPEC)


@given(seeds)
def test_the_upload_is_s_times_H_of_the_chosen_heads_and_nothing_else(seed: int) -> None:
    generator = np.random.default_rng(seed)
    flat = generator.standard_normal(SPEC.size).astype(np.float32)
    heads = generator.random((2, 3)) < 0.5
    update = Update.of(SPEC, flat, heads)
    expected = [H_view(SPEC, flat)[i, j] * s_view(SPEC, flat)[i, j] for i, j in np.argwhere(heads)]
    np.testing.assert_array_equal(update.sH, np.array(expected, np.float32).reshape(-1, 2, 2))
    np.testing.assert_array_equal(update.saved, saved_view(SPEC, flat))


def test_a_round_starts_with_s_at_one_and_H_at_the_broadcast_product() -> None:
    update = full_update(SPEC, np.random.default_rng(1))
    flat = update.trainables(SPEC)
    assert (s_view(SPEC, flat) == 1).all()
    np.testing.assert_array_equal(H_view(SPEC, flat).reshape(-1, 2, 2), update.sH)
    np.testing.assert_array_equal(saved_view(SPEC, flat), update.saved)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_by_a_sentence(noise: bytes) -> None:
    with pytest.raises(UpdateError):
        decode(SPEC, noise)


@settings(max_examples=300)
@given(st.data())
def test_any_changed_bit_is_refused_or_gives_a_valid_update(draw: st.DataObject) -> None:
    data = bytearray(encode(SPEC, full_update(SPEC, np.random.default_rng(0))))
    position = draw.draw(st.integers(0, len(data) - 1))
    data[position] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        update = decode(SPEC, bytes(data))
    except UpdateError:
        return
    assert np.isfinite(update.sH).all()
    assert encode(SPEC, update) == bytes(data)


def test_cut_and_overlong_bytes_are_malformed(data: bytes) -> None:
    for wrong in (b"", data[:10], data[:HEADER], data[:-1], data + b"\0"):
        with pytest.raises(MalformedUpdate):
            decode(SPEC, wrong)


def test_another_version_is_named(data: bytes) -> None:
    with pytest.raises(MalformedUpdate, match="2 is not known"):
        decode(SPEC, data[:4] + struct.pack("<H", 2) + data[6:])


def test_another_value_type_is_named(data: bytes) -> None:
    with pytest.raises(WrongFormat, match="type 2"):
        decode(SPEC, data[:6] + struct.pack("<H", 2) + data[8:])


def test_another_spec_is_refused(data: bytes) -> None:
    other = AdapterSpec(SPEC.layers, SPEC.heads, SPEC.rank, seed=1, saved=SPEC.saved)
    with pytest.raises(WrongSpec):
        decode(other, data)


def test_another_rank_is_refused_with_both_shapes(data: bytes) -> None:
    with pytest.raises(WrongShape, match=r"H is 3 x 3 .*expected 2 x 2"):
        decode(SPEC, data[:40] + struct.pack("<I", 3) + data[44:])


def test_a_head_outside_the_spec_is_named(data: bytes) -> None:
    with pytest.raises(UnknownHead, match="Layer 9 has no head 1"):
        decode(SPEC, data[:HEADER] + struct.pack("<HH", 9, 1) + data[HEADER + 4 :])


def test_a_head_that_stands_twice_is_refused(data: bytes) -> None:
    twice = data[:HEADER] + struct.pack("<HHHH", 0, 0, 0, 0) + data[HEADER + 8 :]
    with pytest.raises(UnknownHead, match="twice"):
        decode(SPEC, twice)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(data: bytes, value: float) -> None:
    with pytest.raises(NotFinite):
        decode(SPEC, data[:-4] + struct.pack("<f", value))


def test_an_absurd_head_count_is_refused_before_anything_is_allocated(data: bytes) -> None:
    with pytest.raises(MalformedUpdate):
        decode(SPEC, data[:44] + struct.pack("<I", 2**32 - 1) + data[48:])
