"""Views over the flat vector of trainables: reading or writing a view reads or writes the vector."""

import numpy as np
from numpy.typing import NDArray

from ravan.spec import AdapterSpec

Vector = NDArray[np.float32]


def H_view(spec: AdapterSpec, flat: Vector) -> Vector:
    """All H_i, a view of shape [layers, heads, rank, rank]."""
    return flat[: spec.H_size].reshape(spec.H_shape)


def s_view(spec: AdapterSpec, flat: Vector) -> Vector:
    """All s_i, a view of shape [layers, heads]."""
    return flat[spec.H_size : spec.H_size + spec.s_size].reshape(len(spec.layers), spec.heads)


def saved_view(spec: AdapterSpec, flat: Vector) -> Vector:
    """The saved tensors, a flat view of length ``spec.saved_size``."""
    return flat[spec.H_size + spec.s_size :]


def saved_tensors(spec: AdapterSpec, saved: Vector) -> dict[str, Vector]:
    """Splits the flat saved part into views by name, each in its own shape."""
    tensors, start = {}, 0
    for tensor in spec.saved:
        tensors[tensor.name] = saved[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return tensors


def trainables(spec: AdapterSpec, sH: Vector, saved: Vector) -> Vector:
    """The flat vector at the start of a round: H = sH [layers, heads, rank, rank], s = 1, saved as given."""
    flat = np.ones(spec.size, np.float32)
    H_view(spec, flat)[:] = sH
    saved_view(spec, flat)[:] = saved
    return flat


def trained_mask(spec: AdapterSpec, heads: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which entries of the flat vector a client trains that chose ``heads`` [layers, heads]; saved tensors always."""
    mask = np.ones(spec.size, np.bool_)
    mask[: spec.H_size].reshape(spec.H_shape)[~heads] = False
    mask[spec.H_size : spec.H_size + spec.s_size] = heads.ravel()
    return mask


def tensors(spec: AdapterSpec, flat: Vector) -> dict[str, Vector]:
    """Views of every trainable by name: ``<layer>.H`` [heads, rank, rank], ``<layer>.s`` [heads], the saved tensors."""
    values = {f"{layer.name}.H": H for layer, H in zip(spec.layers, H_view(spec, flat), strict=True)}
    values |= {f"{layer.name}.s": s for layer, s in zip(spec.layers, s_view(spec, flat), strict=True)}
    return values | saved_tensors(spec, saved_view(spec, flat))
