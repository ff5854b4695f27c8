"""eval.onnx of a bundle asked for what the model says, rather than for how well."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan.bundle import EVAL, Bundle
from ravan.errors import BundleError
from ravan.layout import Vector
from ravan.runtime.names import FOLLOWING, IGNORED, LABELS, LOGITS, LOSS, TRAINABLES, WEIGHT
from ravan.runtime.session import Batch, RuntimeOptions, open_graph

Logits = NDArray[np.float32]


class Predictor:
    """The model of a bundle with an adapter."""

    def __init__(self, bundle: Bundle, trainables: Vector, options: RuntimeOptions | None = None) -> None:
        self._bundle, self._trainables = bundle, trainables
        self._session = open_graph(bundle, EVAL, options)

    def logits(self, inputs: Batch) -> Logits:
        """Of a batch: [batch, classes], per token [batch, length, classes], or as a module of a user's own gives them.

        The batch needs labels only where the module is such a one.

        Raises:
            BundleError: the model gives logits at the last label alone, as language models do.
        """
        if LOGITS not in self._session.outputs:
            raise BundleError(
                f"{self._bundle.folder} gives no logits of whole examples: merge the adapter and use the model."
            )
        shape = next(iter(inputs.values())).shape[: 2 if self._bundle.manifest.task.per_token else 1]
        (logits,) = self._run([LOGITS], inputs, inputs.get(LABELS, np.zeros(shape, np.int64)))
        return np.asarray(logits, np.float32)

    def following(self, inputs: Batch, last: Sequence[int]) -> Logits:
        """Of a language model what follows each row's token at ``last``, [batch, classes].

        Raises:
            BundleError: the bundle is of a version whose graphs give no such thing.
        """
        labels = np.full(next(iter(inputs.values())).shape[:2], IGNORED, np.int64)
        rows = np.arange(len(last))
        labels[rows, list(last)] = 0  # marks the place; what it is does not matter
        if FOLLOWING in self._session.outputs:
            (following,) = self._run([FOLLOWING], inputs, labels)
        elif LOGITS in self._session.outputs:
            (logits,) = self._run([LOGITS], inputs, labels)
            following = logits[rows, list(last)]
        else:
            raise BundleError(
                f"{self._bundle.folder} comes from a version whose language models can't be asked for the next token: "
                "export the bundle again, or ask for perplexity alone with --tokens 0."
            )
        return np.asarray(following, np.float32)

    def perplexity(self, batches: Iterable[Batch]) -> float:
        """The exponential of the mean loss over all labelled tokens of the batches."""
        loss = tokens = 0.0
        for batch in batches:
            mean, weight = self._run([LOSS, WEIGHT], batch, batch[LABELS])
            loss, tokens = loss + float(mean * weight), tokens + float(weight)
        return float(np.exp(min(loss / tokens, 700.0)))

    def _run(self, outputs: Sequence[str], inputs: Batch, labels: NDArray[Any]) -> list[Any]:
        return self._session.run(outputs, {**inputs, LABELS: labels, TRAINABLES: self._trainables})
