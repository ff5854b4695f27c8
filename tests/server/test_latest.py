"""The adapter that a round starts from: in memory once, and the right one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ravan.spec import AdapterSpec
from ravan.update import encode
from server.blobs import FileBlobs
from server.latest import Latest
from tests.ravan.updates import full_update


def test_all_of_a_round_share_one_copy_and_the_next_round_has_its_own(spec: AdapterSpec, tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    updates = [full_update(spec, np.random.default_rng(seed)) for seed in range(2)]
    first, second = (blobs.put(encode(spec, update)) for update in updates)
    latest = Latest(blobs)
    with ThreadPoolExecutor(8) as pool:
        copies = set(map(id, pool.map(latest.data, [first] * 32)))
        decoded = set(map(id, pool.map(lambda _: latest.update(spec, first), range(32))))
    assert (len(copies), len(decoded)) == (1, 1)
    for sha256, update in ((second, updates[1]), (first, updates[0])):
        assert latest.data(sha256) == encode(spec, update)
        np.testing.assert_array_equal(latest.update(spec, sha256).sH, update.sH)
