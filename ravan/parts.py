"""An update as its parts: every head it carries, and the saved tensors together. Rules treat each part alone.

A part is known by its position: a head by its place in the mask [layers, heads], read row by row; the saved tensors
come after the last head.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ravan.layout import Vector
from ravan.spec import AdapterSpec
from ravan.update import Update

Values = NDArray[np.float64]


def part_sizes(spec: AdapterSpec) -> list[int]:
    """Number of values of every part, in order."""
    return [spec.rank**2] * spec.s_size + [spec.saved_size]


def parts_of(update: Update) -> dict[int, Vector]:
    """The parts an update carries, flat views by position."""
    heads = np.flatnonzero(update.heads)
    flat = update.sH.reshape(len(heads), update.sH.shape[1] * update.sH.shape[2])
    return {**dict(zip(heads.tolist(), flat, strict=True)), update.heads.size: update.saved}


def update_of(spec: AdapterSpec, parts: Mapping[int, Values], base: Update) -> Update:
    """The update that carries these parts, rounded to float32; saved tensors are those of ``base`` if left out."""
    heads = sorted(part for part in parts if part < spec.s_size)
    mask = np.zeros(spec.s_size, np.bool_)
    mask[heads] = True
    sH = np.zeros((len(heads), spec.rank, spec.rank), np.float32)
    for into, part in zip(sH, heads, strict=True):
        into[:] = parts[part].reshape(into.shape)
    saved = np.asarray(parts.get(spec.s_size, base.saved), np.float32)
    return Update(mask.reshape(len(spec.layers), spec.heads), sH, saved)


def over(base: Update, update: Update) -> Update:
    """``base``, which carries every head, with the parts of ``update`` in place of its own."""
    sH = base.sH.copy()
    sH[update.heads.ravel()] = update.sH
    return Update(base.heads, sH, update.saved)
