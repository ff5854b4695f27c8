"""What an update must pass before it is stored: shape, numbers, and how far it moved."""

import math
from collections.abc import Sequence
from dataclasses import replace

from ravan.norms import Norms, check, measure
from ravan.spec import AdapterSpec
from ravan.wire import WireFormat, unpack
from server.latest import Latest
from server.records import Round, RoundState
from server.settings import RunOptions
from server.state import State
from server.storage import Storage

WINDOW = 5
"""Rounds whose updates the next one's are compared with: norms fall with the learning rate."""


class Door:
    """Checks uploads against the adapters that they start from."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def admit(self, spec: AdapterSpec, wire: WireFormat, current: Round, data: bytes) -> Norms:
        """Checks an upload against the adapter spec and the round; returns how far it moved.

        Raises:
            UpdateError: it must not be stored; see ``ravan.wire.unpack`` and ``ravan.norms.check``.
        """
        base = self._latest.update(spec, current.base_adapter)
        norms = measure(base, unpack(spec, wire, base, data))
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
