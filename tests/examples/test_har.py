"""The activity example's own parts: nothing but recordings is unpickled, and windows hold one activity each."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.har.data import ACTIVITIES, CHANNELS, STRIDE, WINDOW, Recording, joined, unpickle, windows
from examples.har.model import ActivityTransformer, har
from export.custom import custom_model
from ravan.errors import DataError


def recording(*activities: tuple[int, int]) -> Recording:
    """Stretches of (activity, samples); every sample's signals are its number."""
    at = np.concatenate([np.full(samples, activity) for activity, samples in activities])
    return Recording(np.arange(len(at), dtype=float)[:, None] * np.ones(len(CHANNELS)), at)


def test_windows_hold_one_activity_each() -> None:
    found = windows(
        [recording((1, WINDOW + STRIDE), (-1, 300), (4, WINDOW), (7, 300), (6, WINDOW - 1), (2, 2 * WINDOW))]
    )
    assert [ACTIVITIES[label] for label in found.labels] == ["walking"] * 2 + ["sitting"] + ["upstairs"] * 3
    assert found.x.shape == (6, WINDOW, len(CHANNELS))
    assert found.x[:, 0, 0].tolist() == [0, 64, 492, 1047, 1111, 1175]


def test_a_person_without_a_window_has_none() -> None:
    none = windows([recording((1, WINDOW - 1))])
    assert none.x.shape == (0, WINDOW, len(CHANNELS))
    assert len(joined([none, windows([recording((3, WINDOW))])]).labels) == 1


def test_a_pickle_that_names_anything_else_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    with pytest.raises(DataError, match=r"names builtins.eval, which no recording needs"):
        unpickle(pickle.dumps({1: [Evil()]}))
    assert not (tmp_path / "ran").exists()
    plain = {1: [np.arange(3.0)]}
    content = io.BytesIO()
    pickle.Pickler(content, 2).dump(plain)
    known = content.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(unpickle(known)[1][0], plain[1][0])


def test_the_module_is_what_its_factory_says() -> None:
    recipe = custom_model("examples.har.model:har")
    assert recipe.settings["labels"] == ACTIVITIES
    assert recipe.architecture().targets == har().targets
    with torch.no_grad():
        assert ActivityTransformer()(torch.zeros(2, WINDOW, len(CHANNELS))).shape == (2, len(ACTIVITIES))
