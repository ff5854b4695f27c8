"""A batch that the graphs are not made for is refused before onnxruntime sees it."""

from typing import Any

import numpy as np
import pytest

from ravan.bundle import Bundle
from ravan.errors import DataError
from ravan.runtime.names import LABELS
from ravan.runtime.session import Evaluator, TrainStep
from tests.custom_models import LONGEST
from tests.walks import CHANNELS


def batch(**parts: Any) -> dict[str, Any]:
    good = {"x": np.zeros((2, 5, CHANNELS), np.float32), "present": np.ones((2, 5), bool), LABELS: np.ones((2, 5), int)}
    return {name: value for name, value in {**good, **parts}.items() if value is not None}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            batch(x=np.zeros((2, 5, 7), np.float32)),
            "Input x is float32 [2, 5, 7], expected is float32 [batch, time, 3]: give the inputs that",
        ),
        (batch(x=np.zeros((2, 5, 3))), "Input x is float64 [2, 5, 3], expected is float32 [batch, time, 3]"),
        (batch(x=np.zeros((2, 15), np.float32)), "Input x is float32 [2, 15], expected is float32 [batch, time, 3]"),
        (batch(present=None), "Input present is missing, expected is bool [batch, time]"),
        (
            batch(present=np.ones((2, 6), bool)),
            "Input present is bool [2, 6], expected is bool [batch, time] with time 5 as in other inputs",
        ),
        (
            batch(present=np.ones((3, 5), bool)),
            "Input present is bool [3, 5], expected is bool [batch, time] with batch 2 as in other inputs",
        ),
        (batch(x=np.zeros((2, LONGEST + 1, CHANNELS), np.float32)), "with time from 2 to 32"),
        (batch(x=np.zeros((2, 1, CHANNELS), np.float32)), "with time from 2 to 32"),
        (batch(x=np.zeros((0, 5, CHANNELS), np.float32)), "with batch from 1 on"),
        (batch(labels=np.ones(2, int)), "Input labels is int64 [2], expected is int64 [batch, time]"),
        (batch(labels=None), "Input labels is missing"),
        (batch(labels=np.full((2, 5), 9)), "A label is 9, the bundle knows 0 to 3"),
        (batch(labels=np.full((2, 5), -100)), "A batch holds no label: give every example one"),
    ],
)
def test_a_batch_that_does_not_fit_is_named_with_its_shape_and_the_expected(
    tagger_bundle: Bundle, wrong: dict[str, Any], sentence: str
) -> None:
    flat = np.zeros(tagger_bundle.manifest.adapter.size, np.float32)
    for use in (
        lambda: TrainStep(tagger_bundle)(flat, wrong),
        lambda: Evaluator(tagger_bundle).evaluate(flat, [wrong]),
    ):
        with pytest.raises(DataError) as refused:
            use()
        assert sentence in str(refused.value)


def test_a_good_batch_of_any_size_runs(tagger_bundle: Bundle) -> None:
    step, flat = TrainStep(tagger_bundle), np.zeros(tagger_bundle.manifest.adapter.size, np.float32)
    assert step(flat, batch()).weight == 10
    for rows, steps in ((1, 2), (7, LONGEST)):
        x, present = np.zeros((rows, steps, CHANNELS), np.float32), np.ones((rows, steps), bool)
        assert step(flat, {"x": x, "present": present, LABELS: np.zeros((rows, steps), int)}).weight == rows * steps


def test_text_and_images_are_checked_the_same_way(bundle: Bundle, image_bundles: dict[int, Bundle]) -> None:
    ids = np.ones((2, 4), np.int64)
    with pytest.raises(DataError, match=r"Input attention_mask is int64 \[2, 3\], .* with length 4 as in other"):
        TrainStep(bundle)(
            np.zeros(bundle.manifest.adapter.size, np.float32),
            {"input_ids": ids, "attention_mask": ids[:, :3], LABELS: np.zeros(2, np.int64)},
        )
    pixels = np.zeros((2, 3, 16, 12), np.float32)
    with pytest.raises(DataError, match=r"Input pixel_values is .* expected is float32 \[batch, 1, 16, 12\]"):
        Evaluator(image_bundles[1]).evaluate(
            np.zeros(image_bundles[1].manifest.adapter.size, np.float32),
            [{"pixel_values": pixels, LABELS: np.zeros(2, np.int64)}],
        )
