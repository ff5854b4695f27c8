import numpy as np
import pytest

from ravan.bases import draw_bases, overfull
from ravan.spec import AdapterSpec, Init, LayerSpec


def one_layer(
    init: Init, *, heads: int = 3, rank: int = 4, d_in: int = 24, d_out: int = 16, seed: int = 5
) -> AdapterSpec:
    return AdapterSpec((LayerSpec("layer", d_in, d_out),), heads, rank, init, seed)


@pytest.mark.parametrize("init", Init)
def test_bases_have_their_shapes_and_come_back_from_the_seed(init: Init) -> None:
    spec = one_layer(init)
    first, again = (draw_bases(spec, spec.layers[0]) for _ in range(2))
    assert first.A.shape == (3, 4, 24)
    assert first.B.shape == (3, 16, 4)
    assert first.A.dtype == first.B.dtype == np.float32
    np.testing.assert_array_equal(first.A, again.A)
    np.testing.assert_array_equal(first.B, again.B)


@pytest.mark.parametrize("init", Init)
def test_seed_layer_and_side_each_give_other_bases(init: Init) -> None:
    spec, other_seed = one_layer(init, d_in=16), one_layer(init, d_in=16, seed=6)
    bases = draw_bases(spec, spec.layers[0])
    assert not np.allclose(bases.A, draw_bases(other_seed, spec.layers[0]).A)
    assert not np.allclose(bases.A, draw_bases(spec, LayerSpec("other", 16, 16)).A)
    assert not np.allclose(bases.A, bases.B.transpose(0, 2, 1))


def test_the_stream_stays_what_it_was() -> None:
    """A bundle's bases can be rebuilt from its spec by a later version: these values must never change."""
    spec = one_layer(Init.NORMAL, heads=1, rank=2, d_in=2, d_out=2, seed=1)
    bases = draw_bases(spec, spec.layers[0])
    np.testing.assert_allclose(bases.A.ravel(), GOLDEN_A, rtol=1e-6)


GOLDEN_A = [0.72863322, 0.35214111, -0.20053616, -0.093566395]


def test_gram_schmidt_is_orthonormal_across_all_heads() -> None:
    spec = one_layer(Init.GRAM_SCHMIDT)
    bases = draw_bases(spec, spec.layers[0])
    A = bases.A.reshape(12, 24)
    B = bases.B.transpose(0, 2, 1).reshape(12, 16)
    np.testing.assert_allclose(A @ A.T, np.eye(12), atol=1e-6)
    np.testing.assert_allclose(B @ B.T, np.eye(12), atol=1e-6)


def test_gram_schmidt_works_in_blocks_where_the_heads_exceed_the_dimension() -> None:
    spec = one_layer(Init.GRAM_SCHMIDT, heads=4, rank=5, d_out=16)  # 20 columns in 16 dimensions
    B = draw_bases(spec, spec.layers[0]).B.transpose(0, 2, 1).reshape(20, 16)
    np.testing.assert_allclose(B[:16] @ B[:16].T, np.eye(16), atol=1e-6)
    np.testing.assert_allclose(B[16:] @ B[16:].T, np.eye(4), atol=1e-6)
    assert overfull(spec) == ["layer"]
    assert overfull(one_layer(Init.GRAM_SCHMIDT)) == []


def test_normal_columns_have_the_norm_of_orthonormal_ones_on_average() -> None:
    spec = one_layer(Init.NORMAL, heads=8, rank=16, d_in=512, d_out=256)
    bases = draw_bases(spec, spec.layers[0])
    assert np.linalg.norm(bases.A, axis=2).mean() == pytest.approx(1, abs=0.02)
    assert np.linalg.norm(bases.B, axis=1).mean() == pytest.approx(1, abs=0.02)


def test_constant_heads_are_all_equal() -> None:
    spec = one_layer(Init.CONSTANT)
    bases = draw_bases(spec, spec.layers[0])
    assert (bases.A[0] == bases.A).all()
    assert (bases.B[0] == bases.B).all()


def test_shared_subspace_heads_span_one_space_by_the_same_mixing() -> None:
    """B_i = M R_i and A_i = R_i N: all B_i span the columns of M, and R_i R_j^-1 takes A_j to A_i."""
    spec = one_layer(Init.SHARED_SUBSPACE)
    bases = draw_bases(spec, spec.layers[0])
    assert np.linalg.matrix_rank(np.concatenate(list(bases.B), axis=1), tol=1e-4) == 4
    assert np.linalg.matrix_rank(np.concatenate(list(bases.A), axis=0), tol=1e-4) == 4
    between_B = np.linalg.lstsq(bases.B[1], bases.B[0], rcond=None)[0]  # R_1^-1 R_0
    R0_over_R1 = bases.A[0] @ np.linalg.pinv(bases.A[1])  # R_0 R_1^-1
    assert np.trace(between_B) == pytest.approx(np.trace(R0_over_R1), rel=1e-3)
