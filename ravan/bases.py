"""The frozen bases A_i [rank, d_in] and B_i [d_out, rank] of every head, drawn from the spec's seed.

Each matrix has its own counter-based stream (Philox, Salmon et al. 2011) keyed by seed, layer and side, so that any
one can be rebuilt without the others. The paper leaves the scale of the normal bases open; here their columns have
expected norm 1, as the orthonormal ones have exactly, so that one learning rate suits both.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan.layout import Vector
from ravan.spec import AdapterSpec, Init, LayerSpec


@dataclass(frozen=True)
class Bases:
    """The frozen bases of one layer: A [heads, rank, d_in] and B [heads, d_out, rank], float32."""

    A: Vector
    B: Vector


def draw_bases(spec: AdapterSpec, layer: LayerSpec) -> Bases:
    """Draws the bases of one layer of the spec; the same spec gives the same bases."""
    inward = _draw(spec, layer, "A", layer.d_in)  # [heads, d_in, rank]
    outward = _draw(spec, layer, "B", layer.d_out)  # [heads, d_out, rank]
    return Bases(
        A=np.ascontiguousarray(inward.transpose(0, 2, 1), dtype=np.float32),
        B=np.ascontiguousarray(outward, dtype=np.float32),
    )


def overfull(spec: AdapterSpec) -> list[str]:
    """Layers in which rank * heads exceeds a dimension, so that Gram-Schmidt works in blocks of at most d columns."""
    return [layer.name for layer in spec.layers if spec.rank * spec.heads > min(layer.d_in, layer.d_out)]


def _generator(spec: AdapterSpec, layer: LayerSpec, side: str) -> np.random.Generator:
    name = zlib.crc32(f"{layer.name}/{side}".encode())
    return np.random.Generator(np.random.Philox(key=np.array([spec.seed, name], np.uint64)))


def _draw(spec: AdapterSpec, layer: LayerSpec, side: str, d: int) -> NDArray[np.float64]:
    """The bases of one side as [heads, d, rank]."""
    generator, heads, rank = _generator(spec, layer, side), spec.heads, spec.rank
    drawn: NDArray[np.float64]
    match spec.init:
        case Init.NORMAL:
            drawn = generator.standard_normal((heads, d, rank)) / np.sqrt(d)
        case Init.GRAM_SCHMIDT:
            columns = _orthonormal_blocks(generator.standard_normal((d, heads * rank)))
            drawn = columns.reshape(d, heads, rank).transpose(1, 0, 2)
        case Init.CONSTANT:
            one = generator.standard_normal((d, rank)) / np.sqrt(d)
            drawn = np.broadcast_to(one, (heads, d, rank))
        case Init.SHARED_SUBSPACE:
            shared = generator.standard_normal((d, rank)) / np.sqrt(d)
            mixing = _mixing(spec, layer)  # [heads, rank, rank]: B_i = M R_i, A_i = R_i N
            drawn = shared @ (mixing if side == "B" else mixing.transpose(0, 2, 1))
    return drawn


def _orthonormal_blocks(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gram-Schmidt over the columns of [d, n], in blocks of at most d, which is all that can be orthonormal."""
    d, n = columns.shape
    blocks = []
    for start in range(0, n, d):
        q, r = np.linalg.qr(columns[:, start : start + d])
        blocks.append(q * np.where(np.diag(r) < 0, -1.0, 1.0))  # QR leaves signs open; Gram-Schmidt's r is positive
    return np.concatenate(blocks, axis=1)


def _mixing(spec: AdapterSpec, layer: LayerSpec) -> NDArray[np.float64]:
    """The invertible R_i [heads, rank, rank] shared by both sides of a layer."""
    normal = _generator(spec, layer, "R").standard_normal((spec.heads, spec.rank, spec.rank))
    scaled: NDArray[np.float64] = normal / np.sqrt(spec.rank)
    return scaled
