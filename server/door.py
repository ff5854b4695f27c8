"""What an update must pass before it is stored: shape, numbers, and how far it moved."""

import math
from collections.abc import Sequence
from dataclasses import replace

from ravan.heads import check_heads
from ravan.norms import Norms, check, measure
from ravan.spec import AdapterSpec
from ravan.wire import unpack
from server.latest import Latest
from server.records import Assignment, Round, RoundState
from server.settings import RunOptions
from server.state import State
from server.storage import Storage

WINDOW = 5
"""Rounds whose updates the next one's are compared with: norms fall with the learning rate."""


class Door:
    """Checks uploads against the adapters that they start from."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def admit(self, spec: AdapterSpec, options: RunOptions, current: Round, part: Assignment, data: bytes) -> Norms:
        """Checks an upload against adapter spec, round, and the device's part in it; returns how far it moved.

        Raises:
            UpdateError: it must not be stored; see ``unpack``, ``check_heads`` and ``check``.
        """
        base = self._latest.update(spec, current.base_adapter)
        update = unpack(spec, options.wire, base, data)
        check_heads(options.head_spread, update.heads, 1.0 if part.head_budget is None else part.head_budget)
        norms = measure(base, update)
        check(norms, current.bound)
        return norms


async def with_bounds(storage: Storage, options: RunOptions, opened: Round, rounds: Sequence[Round]) -> Round:
    """A round with the bounds that follow from the run's settings and the rounds before it."""
    before = [r for r in rounds if r.state is RoundState.PUBLISHED][-WINDOW:]
    largest = options.bound(await storage.call(_norms, storage.state, before))
    return replace(opened, head_bound=_finite(largest.head), saved_bound=_finite(largest.saved))


def _norms(state: State, rounds: Sequence[Round]) -> list[Norms]:
    """Of the updates that count in these rounds."""
    parts = [part for done in rounds for part in state.counted(done.run_id, done.number)]
    return [part.norms for part in parts if part.norms is not None]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
