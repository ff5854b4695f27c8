"""Holding a round's aggregate against the clients' full weight changes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravan.bases import Bases, draw_bases
from ravan.bundle import Bundle
from ravan.layout import H_view
from ravan.spec import AdapterSpec
from ravan.update import Update, decode
from ravan.weights import weight_change
from ravan.wire import unpack
from server.folder_storage import FolderStorage
from server.records import AssignmentState, RoundState


def last_round(state_folder: Path, spec: AdapterSpec) -> tuple[Update, Update, list[Update]]:
    """The last published round of a stopped server: base adapter, published adapter, received updates."""
    storage = FolderStorage(state_folder)
    try:
        run = storage.state.runs()[0]
        last = [r for r in storage.state.rounds(run.run_id) if r.state is RoundState.PUBLISHED][-1]
        assert last.adapter is not None
        base, published = (decode(spec, storage.adapters.get(blob)) for blob in (last.base_adapter, last.adapter))
        parts = storage.state.assignments(run.run_id, last.number)
        received = [part.sha256 for part in parts if part.state is AssignmentState.RECEIVED and part.sha256]
        return (
            base,
            published,
            [unpack(spec, run.options.wire, base, storage.updates.get(sha256)) for sha256 in received],
        )
    finally:
        storage.close()


def exactness(bundle: Bundle, base: Update, published: Update, updates: Sequence[Update]) -> float:
    """Largest difference, over all layers, between the aggregated weight change and the mean of the clients'.

    The mean is taken head by head over the clients that trained it; a head nobody trained is the base's.
    """
    spec, largest = bundle.manifest.adapter, 0.0
    full = [H_view(spec, update.trainables(spec)) for update in updates]
    aggregated, kept = (H_view(spec, adapter.trainables(spec)) for adapter in (published, base))
    for index, layer in enumerate(spec.layers):
        bases = draw_bases(spec, layer)
        mean = np.zeros((layer.d_out, layer.d_in))
        for head in range(spec.heads):
            trained = [H for H, update in zip(full, updates, strict=True) if update.heads[index, head]] or [kept]
            mean += np.mean([_head_change(bases, head, H[index, head]) for H in trained], axis=0)
        largest = max(largest, float(np.abs(weight_change(bases, aggregated[index]) - mean).max()))
    return largest


def _head_change(bases: Bases, head: int, sH: NDArray[np.float32]) -> NDArray[np.float64]:
    """B_i (s_i H_i) A_i of one head, [d_out, d_in]."""
    one = Bases(bases.A[head : head + 1], bases.B[head : head + 1])
    return weight_change(one, sH[None])
