"""The demo's own parts: the split, the independent check, and that it never waits for a dead client."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from demo.data import dirichlet_split, newsgroups, write_jsonl
from demo.exactness import exactness
from demo.processes import ending_together, running
from ravan.aggregate import Contribution, average
from ravan.bundle import Bundle
from ravan.errors import EnvironmentProblem, Unreachable
from ravan.runtime.rows import label_of, read_rows, text_of
from ravan.runtime.text import COLUMNS
from ravan.update import Update
from tests.ravan.updates import full_update, random_update


def test_the_split_gives_every_document_to_one_device_and_is_far_from_even() -> None:
    labels = [f"label-{i % 20}" for i in range(4000)]
    shards = dirichlet_split(labels, 20, 0.3, np.random.default_rng(0))
    assert sorted(i for shard in shards for i in shard) == list(range(4000))
    share = [
        max(np.unique([labels[i] for i in shard], return_counts=True)[1]) / len(shard) for shard in shards if shard
    ]
    assert np.mean(share) > 0.2  # an even split gives 0.05


def test_the_real_documents_are_read_as_devices_read_them(tmp_path: Path) -> None:
    corpus = newsgroups()
    assert (len(corpus.train), len(corpus.test), len(corpus.labels)) == (11293, 7528, 20)
    index = {label: i for i, label in enumerate(corpus.labels)}
    path = write_jsonl(tmp_path / "test.jsonl", corpus.test[:500])
    read = read_rows(path, COLUMNS, lambda row: (text_of(row), label_of(row, index)), skip_bad=False)
    assert len(read.values) == 500


def test_exactness_sees_the_mean_and_whatever_is_not_it(bundle: Bundle) -> None:
    spec, generator = bundle.manifest.adapter, np.random.default_rng(0)
    base = full_update(spec, generator)
    updates = [random_update(spec, generator) for _ in range(3)]
    contributions = [Contribution(str(i), lambda u=u: u) for i, u in enumerate(updates)]  # type: ignore[misc]
    mean = average(spec, base, contributions)
    assert exactness(bundle, base, mean, updates) < 1e-5
    wrong = Update(mean.heads, mean.sH * np.float32(1.01), mean.saved)
    assert exactness(bundle, base, wrong, updates) > 1e-3


def test_a_client_that_fails_ends_the_demo_with_a_sentence(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    failing = [sys.executable, "-c", "import sys; sys.exit(3)"]
    logs = [tmp_path / "server.log", tmp_path / "client.log"]
    with (
        running([sleeping, failing], logs) as (server, client),
        pytest.raises(EnvironmentProblem, match="A client process failed"),
        ending_together([client], server),
    ):
        watch_until_the_end(server)


def watch_until_the_end(server: subprocess.Popen[bytes]) -> None:
    """What watching a run does when its server goes away."""
    end = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    raise Unreachable("No server answers.")
