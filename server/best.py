"""Which of a run's rounds is the best."""

import math
from collections.abc import Sequence

from ravan.inputs import Metric
from ravan.runtime.session import Evaluation
from server.records import Round, RoundState


def best_round(rounds: Sequence[Round], metric: Metric | None = None) -> Round | None:
    """The published round that is best by the metric, the earliest among equals; without evaluations the last."""
    published = [r for r in rounds if r.state is RoundState.PUBLISHED]
    evaluated = [r for r in published if r.evaluation is not None]
    if not evaluated:
        return published[-1] if published else None
    return max(evaluated, key=lambda r: _score(r.evaluation, metric))


def is_best(done: Round, earlier: Sequence[Round], metric: Metric | None = None) -> bool:
    """Whether a round is the best once it is published."""
    return best_round([*earlier, done], metric) is done


def _score(evaluation: Evaluation | None, metric: Metric | None) -> float:
    """Higher is better."""
    if evaluation is None:
        return -math.inf
    return -evaluation.loss if metric in (Metric.PERPLEXITY, Metric.LOSS) else evaluation.accuracy
