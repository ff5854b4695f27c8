"""What a device keeps, against a server that is up to no good."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edge.home import Home
from edge.quota import size_of
from edge.runtimes import Runtimes
from ravan.artifacts import has_artifacts
from ravan.bundle import Bundle, open_bundle
from ravan.bundle_files import ARTIFACTS, MANIFEST, OPTIONAL, describe_file
from ravan.errors import BundleError, EnvironmentProblem
from ravan.files import new_folder


class Served:
    """Stands where the client's connection does: hands out a bundle's files as a server would, or worse."""

    def __init__(self, bundle: Bundle, change: Callable[[str, bytes], bytes] = lambda name, data: data) -> None:
        self.device_id = "device"
        self.fetched: list[tuple[str, int]] = []
        self._bundle = bundle
        self._change = change

    def fetch_file(self, bundle_id: str, file: str, write: Callable[[bytes], object], offset: int, size: int) -> None:
        self.fetched.append((file, offset))
        data = self._bundle.manifest.to_json().encode() if file == MANIFEST else self._bundle.path(file).read_bytes()
        write(self._change(file, data)[offset:])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with closing(Home(tmp_path / "home")) as opened:
        yield opened


def bundle_id(bundle: Bundle) -> str:
    return bundle.manifest.bundle_id


def test_a_bundle_is_fetched_once(home: Home, bundle: Bundle) -> None:
    server = Served(bundle)
    for _ in range(2):
        assert home.bundle(server, bundle_id(bundle)).manifest == bundle.manifest  # type: ignore[arg-type]
    assert len(server.fetched) == 1 + sum(name not in OPTIONAL for name in bundle.manifest.files)


def test_a_file_that_changes_later_is_noticed_and_fetched_again(home: Home, bundle: Bundle) -> None:
    server = Served(bundle)
    held = home.bundle(server, bundle_id(bundle))  # type: ignore[arg-type]
    name = next(iter(bundle.manifest.files))
    held.path(name).write_bytes(b"x" * held.path(name).stat().st_size)
    again = home.bundle(server, bundle_id(bundle))  # type: ignore[arg-type]
    assert again.path(name).read_bytes() == bundle.path(name).read_bytes()


def test_a_download_goes_on_where_it_was_cut_off(home: Home, bundle: Bundle, tmp_path: Path) -> None:
    partial = tmp_path / "home" / "bundles" / f"{bundle_id(bundle)}.partial"
    partial.mkdir()
    (partial / "weights.bin").write_bytes(bundle.path("weights.bin").read_bytes()[:1000])
    server = Served(bundle)
    home.bundle(server, bundle_id(bundle))  # type: ignore[arg-type]
    assert ("weights.bin", 1000) in server.fetched


def test_other_bytes_than_the_manifest_promises_are_refused(home: Home, bundle: Bundle, tmp_path: Path) -> None:
    server = Served(bundle, lambda name, data: data[::-1] if name == "train.onnx" else data)
    with pytest.raises(BundleError, match=r"train\.onnx in the bundle"):
        home.bundle(server, bundle_id(bundle))  # type: ignore[arg-type]
    assert not (tmp_path / "home" / "bundles" / bundle_id(bundle)).exists()
    assert home.bundle(Served(bundle), bundle_id(bundle))  # type: ignore[arg-type]


def test_bundles_make_way_for_another_and_never_one_that_a_device_uses(
    tmp_path: Path, bundle: Bundle, with_artifacts: Bundle
) -> None:
    size = bundle.manifest.download_size
    other = with_artifacts.manifest.download_size
    one, two = Served(bundle), Served(with_artifacts)
    folder = tmp_path / "small"
    with closing(Home(folder, size + other)) as home:
        first = home.bundle(one, bundle_id(bundle)).folder  # type: ignore[arg-type]
        two.device_id = "another"
        with pytest.raises(EnvironmentProblem, match=r"are left for it: give --disk-mb \d+ at least\."):
            home.bundle(two, bundle_id(with_artifacts))  # type: ignore[arg-type]
        assert [path.name for path in (folder / "bundles").iterdir()] == [bundle_id(bundle)]
        two.device_id = one.device_id  # the same device leaves the first one for it
        home.bundle(two, bundle_id(with_artifacts))  # type: ignore[arg-type]
        assert not first.exists()
        assert size_of(folder) <= size + other


def test_a_bundle_for_a_newer_onnxruntime_is_refused_before_it_is_fetched(home: Home, bundle: Bundle) -> None:
    later = replace(bundle.manifest, needs=replace(bundle.manifest.needs, onnxruntime="77.0"))
    server = Served(replace(bundle, manifest=later))
    with pytest.raises(EnvironmentProblem, match=r"needs onnxruntime 77\.0 or newer.*pip install"):
        home.bundle(server, later.bundle_id, lambda m: Runtimes().admit(m, "1.31.1"))  # type: ignore[arg-type]
    assert [name for name, _ in server.fetched] == [MANIFEST]


def test_another_manifest_is_refused(home: Home, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="not the one of this bundle"):
        home.bundle(Served(bundle), "0" * 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../../victim", "{absolute}", "", ".", "0" * 63, "G" * 64])
def test_a_server_cannot_name_a_folder_of_the_device(home: Home, bundle: Bundle, tmp_path: Path, name: str) -> None:
    with new_folder(tmp_path / "victim") as victim:
        (victim / "precious").write_text("x")
    with pytest.raises(BundleError, match="no sha256"):
        home.bundle(Served(bundle), name.format(absolute=tmp_path / "victim"))  # type: ignore[arg-type]
    assert (tmp_path / "victim" / "precious").exists()


def test_each_name_keeps_an_identity_of_its_own(home: Home) -> None:
    names = ["a b", "a_b", "..", ".", "a/b", "x" * 300, "ü", ""]
    ids = [home.device_id(name) for name in names]
    assert len(set(ids)) == len(names)
    assert ids == [home.device_id(name) for name in names]
    assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") for i in ids)


def test_one_client_uses_a_home_at_a_time(tmp_path: Path, home: Home) -> None:
    with pytest.raises(EnvironmentProblem, match="Another client uses"):
        Home(tmp_path / "home")


def test_devices_of_one_process_fetch_a_bundle_once(home: Home, bundle: Bundle) -> None:
    server = Served(bundle)
    threads = [threading.Thread(target=home.bundle, args=(server, bundle_id(bundle))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.fetched) == 1 + sum(name not in OPTIONAL for name in bundle.manifest.files)


@pytest.fixture
def with_artifacts(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with files in the places of the artifacts for onnxruntime-training."""
    copy = shutil.copytree(bundle.folder, tmp_path / "with-artifacts")
    (copy / "ort").mkdir()
    for name in ARTIFACTS:
        (copy / name).write_bytes(name.encode() * 100)
    files = {**bundle.manifest.files, **{name: describe_file(copy / name) for name in ARTIFACTS}}
    manifest = replace(bundle.manifest, files=files)
    (copy / MANIFEST).write_text(manifest.to_json())
    return open_bundle(copy)


def test_artifacts_are_fetched_by_who_wants_them_and_when(home: Home, with_artifacts: Bundle) -> None:
    server = Served(with_artifacts)
    plain = home.bundle(server, bundle_id(with_artifacts))  # type: ignore[arg-type]
    assert not has_artifacts(plain)
    assert not {name for name, _ in server.fetched} & set(ARTIFACTS)
    fetched = len(server.fetched)
    for _ in range(2):
        whole = home.bundle(server, bundle_id(with_artifacts), lambda manifest: ARTIFACTS)  # type: ignore[arg-type]
        assert has_artifacts(whole)
        assert {name for name, _ in server.fetched[fetched:]} == set(ARTIFACTS)
    assert open_bundle(whole.folder, may_lack=OPTIONAL) == whole


def test_artifacts_that_were_changed_are_fetched_again(home: Home, with_artifacts: Bundle) -> None:
    server, name = Served(with_artifacts), ARTIFACTS[0]
    held = home.bundle(server, bundle_id(with_artifacts), lambda manifest: ARTIFACTS)  # type: ignore[arg-type]
    held.path(name).write_bytes(b"changed")
    again = home.bundle(server, bundle_id(with_artifacts), lambda manifest: ARTIFACTS)  # type: ignore[arg-type]
    assert again.path(name).read_bytes() == with_artifacts.path(name).read_bytes()


def test_what_an_operator_hosts_must_hold_its_artifacts(with_artifacts: Bundle) -> None:
    with_artifacts.path(ARTIFACTS[0]).unlink()
    with pytest.raises(BundleError, match="is missing from the bundle"):
        open_bundle(with_artifacts.folder)
