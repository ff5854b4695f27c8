"""What a device's uploads left out, kept for its next one."""

from pathlib import Path

import numpy as np
import pytest

from edge.left_out import LeftOut
from ravan.spec import AdapterSpec
from ravan.update import encode
from tests.ravan.updates import full_update, random_update


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.left-out"


def test_the_rest_is_there_after_a_restart_for_its_own_run_and_bundle_alone(spec: AdapterSpec, path: Path) -> None:
    rest = full_update(spec, np.random.default_rng(0))
    path.write_bytes(LeftOut(path, "run", "bundle").bytes_of(spec, rest))
    assert encode(spec, LeftOut(path, "run", "bundle").read(spec)) == encode(spec, rest)
    for run, bundle in (("another", "bundle"), ("run", "another")):
        assert not LeftOut(path, run, bundle).read(spec).sH.any()


def test_a_device_begins_with_nothing_and_so_does_one_whose_file_is_damaged(spec: AdapterSpec, path: Path) -> None:
    kept = LeftOut(path, "run", "bundle")
    assert not kept.read(spec).sH.any()
    path.write_bytes(kept.bytes_of(spec, full_update(spec, np.random.default_rng(0))))
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole[:32] + b"x" + whole[33:]):
        path.write_bytes(damaged)
        assert not kept.read(spec).sH.any()
    few = np.zeros((len(spec.layers), spec.heads), np.bool_)
    path.write_bytes(kept.bytes_of(spec, random_update(spec, np.random.default_rng(0), few)))
    assert kept.read(spec).heads.all()
