"""A whole federation for images: one device has an NPZ file, the other a folder of image files, and neither torch."""

from typing import Any

from ravan.bundle import Bundle
from tests.e2e.processes import Fleet
from tests.images import drawings, write_folder, write_npz


def test_devices_with_files_and_folders_of_images_raise_the_accuracy(
    fleet: Fleet, image_bundles: dict[int, Bundle]
) -> None:
    folder = fleet.folder
    server = fleet.serve("--until-finished")
    fleet.create(
        image_bundles[1].folder,
        evaluation=write_npz(folder / "held-out.npz", *drawings(90, 99)),
        rounds=2,
        clients_per_round=2,
        local_steps=40,
        batch_size=16,
        learning_rate=0.01,
        saved_learning_rate=0.01,
        poll_min=0.05,
        poll_max=0.1,
    )
    fleet.device("file", write_npz(folder / "file.npz", *drawings(90, 1)))
    photos = write_folder(folder / "photos", *drawings(60, 2))
    (photos / "bar" / "0000.png").write_bytes(b"cut short")
    fleet.device("folder", photos, options=("--skip-bad",))
    fleet.finished()
    assert server.wait(30) == 0
    run: Any = fleet.status()["runs"][0]  # type: ignore[index]
    assert [r["received"] for r in run["rounds"]] == [2, 2]
    assert run["initial"]["accuracy"] < 0.6
    assert run["rounds"][-1]["evaluation"]["accuracy"] > 0.8
    assert '"skipped": 1' in fleet.log("folder")
