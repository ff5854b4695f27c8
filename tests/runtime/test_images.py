"""Reading private images: what is wrong is named by file, and left out only when asked."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravan.bundle import Bundle, ImageSettings, Task
from ravan.errors import DataError, NoExamples
from ravan.runtime.examples import in_order_of_size, micro_batches, read_examples
from ravan.runtime.images import LabelledImages
from ravan.runtime.names import LABELS, PIXEL_VALUES
from tests.images import HEIGHT, SHAPES, WIDTH, drawings, write_folder, write_npz

GREY = ImageSettings(HEIGHT, WIDTH, (0.3,), (0.2,), tokens=13)
COLOUR = ImageSettings(HEIGHT, WIDTH, (0.1, 0.2, 0.3), (0.5, 0.4, 0.25), tokens=13)


def for_images(bundle: Bundle, settings: ImageSettings) -> Bundle:
    """The tiny bundle as if it were for images: all that reading looks at is the manifest."""
    manifest = replace(bundle.manifest, task=Task.IMAGE_CLASSIFICATION, labels=SHAPES, image=settings)
    return Bundle(bundle.folder, manifest)


@pytest.fixture
def grey(bundle: Bundle) -> Bundle:
    return for_images(bundle, GREY)


@pytest.fixture
def colour(bundle: Bundle) -> Bundle:
    return for_images(bundle, COLOUR)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_and_an_npz_file_give_the_same_examples(bundle: Bundle, tmp_path: Path, channels: int) -> None:
    prepared = for_images(bundle, GREY if channels == 1 else COLOUR)
    pixels, labels = drawings(12, 0, channels)
    order = np.argsort(labels, kind="stable")  # as the folders are read: label after label
    folder = read_examples(prepared, write_folder(tmp_path / "folder", pixels, labels))
    file = read_examples(prepared, write_npz(tmp_path / "a.npz", pixels[order], np.array(labels)[order]))
    assert len(folder) == len(file) == 12
    one, other = folder.batch(range(12)), file.batch(range(12))
    np.testing.assert_array_equal(one[PIXEL_VALUES], other[PIXEL_VALUES])
    np.testing.assert_array_equal(one[LABELS], other[LABELS])
    np.testing.assert_array_equal(one[LABELS], [SHAPES.index(labels[i]) for i in order])


def test_labels_are_names_or_indices(grey: Bundle, tmp_path: Path) -> None:
    pixels, labels = drawings(6, 0)
    by_name = LabelledImages.read(grey, write_npz(tmp_path / "a.npz", pixels, labels))
    by_index = LabelledImages.read(grey, write_npz(tmp_path / "b.npz", pixels[..., 0], [0, 1, 2, 0, 1, 2]))
    assert list(by_name.labels) == list(by_index.labels) == [0, 1, 2, 0, 1, 2]


def test_batches_are_normalized_by_the_bundle_and_have_channels_first(colour: Bundle, tmp_path: Path) -> None:
    pixels, labels = drawings(3, 0, channels=3)
    batch = LabelledImages.read(colour, write_npz(tmp_path / "a.npz", pixels, labels)).batch([2, 0])
    values = batch[PIXEL_VALUES]
    assert values.shape == (2, 3, HEIGHT, WIDTH)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    for channel in range(3):
        expected = (pixels[[2, 0], :, :, channel] / 255 - COLOUR.mean[channel]) / COLOUR.std[channel]
        np.testing.assert_allclose(values[:, channel], expected, atol=1e-6)
    np.testing.assert_array_equal(batch[LABELS], [2, 0])


def test_images_of_other_sizes_and_modes_are_brought_to_the_bundles(colour: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bar").mkdir()
    flat: dict[str, float | tuple[float, ...]] = {"RGB": (10, 20, 30), "RGBA": (10, 20, 30, 255), "L": 20, "1": 1}
    for mode, fill in flat.items():
        Image.new(mode, (50, 31), fill).save(tmp_path / "bar" / f"{mode}.png")
    images = LabelledImages.read(colour, tmp_path)
    seen = {name: tuple(image[3, 4]) for name, image in zip(sorted(flat), images.pixels, strict=True)}
    assert seen == {"RGB": (10, 20, 30), "RGBA": (10, 20, 30), "L": (20, 20, 20), "1": (255, 255, 255)}
    assert {image.shape for image in images.pixels} == {(HEIGHT, WIDTH, 3)}


def test_a_photo_taken_sideways_is_turned_the_right_way_up(grey: Bundle, tmp_path: Path) -> None:
    upright = np.zeros((HEIGHT, WIDTH), np.uint8)
    upright[:4] = 255
    sideways, exif = Image.fromarray(np.rot90(upright)), Image.Exif()
    exif[0x0112] = 6  # Orientation: the top row is the camera's right side
    (tmp_path / "bar").mkdir()
    sideways.save(tmp_path / "bar" / "photo.png", exif=exif)
    (image,) = LabelledImages.read(grey, tmp_path).pixels
    np.testing.assert_array_equal(image[..., 0], upright)


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def bad_exif(path: Path) -> None:
    """Notes that end in their own header, of which Pillow says struct.error."""
    Image.new("L", (9, 9)).save(path, "WEBP", exif=b"Exif\0\0MM\0*")


def bad_chunk(path: Path) -> None:
    """A chunk whose name is none, of which Pillow says SyntaxError."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT")
    content[at : at + 4] = b"\0\1\2\3"
    path.write_bytes(content)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def bomb(side: int) -> Callable[[Path], None]:
    """A PNG of a few bytes that declares side x side pixels."""

    def write(path: Path) -> None:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)

    return write


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "truncated"),
        (bad_chunk, "no image, or a damaged one"),
        (bad_exif, "no image, or a damaged one"),
        (lambda path: path.write_bytes(b""), "no image, or a damaged one"),
        (lambda path: path.write_text("<html>404</html>"), "no image, or a damaged one"),
        (bomb(8_000), "8000 x 8000 pixels are too many"),
        (bomb(60_000), "too many pixels"),
        (lambda path: Image.fromarray(np.full((4, 4), 999, np.uint16)).save(path), "more than 8 bits a channel"),
        (a_folder, "Is a directory"),
    ],
)
def test_a_bad_image_is_named_and_skipped_only_when_asked(
    grey: Bundle, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = write_folder(tmp_path / "photos", *drawings(6, 0))
    spoil(folder / "post" / "0001.png")
    with pytest.raises(DataError, match=rf"photos/post/0001.png: .*{reason}.*--skip-bad\.$"):
        LabelledImages.read(grey, folder)
    images = LabelledImages.read(grey, folder, skip_bad=True)
    assert (len(images), images.skipped) == (5, 1)


def test_a_folder_that_is_no_label_is_named(grey: Bundle, tmp_path: Path) -> None:
    pixels, labels = drawings(3, 0)
    folder = write_folder(tmp_path / "photos", pixels, [*labels[:2], "ball"])
    with pytest.raises(DataError, match=r"photos/ball/0002.png: unknown label 'ball'; .*--skip-bad"):
        LabelledImages.read(grey, folder)
    assert LabelledImages.read(grey, folder, skip_bad=True).skipped == 1


@pytest.mark.parametrize("label", [3, -1, 1.0, True, "ball"])
def test_a_label_of_an_array_that_is_none_is_named_by_its_place(grey: Bundle, tmp_path: Path, label: object) -> None:
    path = write_npz(tmp_path / "a.npz", drawings(1, 0)[0], [label])
    with pytest.raises(DataError, match=rf"a.npz, image 0: unknown label {label!r}"):
        LabelledImages.read(grey, path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 16, 12), np.float32), [0, 1]),
        (np.zeros((2, 192), np.uint8), [0, 1]),
        (np.zeros((2, 16, 12, 2), np.uint8), [0, 1]),
        (np.zeros((2, 3, 16, 12), np.uint8), [0, 1]),
        (np.zeros((2, 16, 0), np.uint8), [0, 1]),
        (np.zeros((2, 16, 12), np.uint8), [0, 1, 2]),
        (np.zeros((2, 16, 12), np.uint8), [[0], [1]]),
        (np.uint8(7), 0),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused_as_a_whole(
    grey: Bundle, tmp_path: Path, images: np.ndarray, labels: object
) -> None:
    path = write_npz(tmp_path / "a.npz", images, labels)
    with pytest.raises(DataError, match=r"a.npz holds images .*: give uint8 \[n, height, width\]"):
        LabelledImages.read(grey, path, skip_bad=True)


def pickled(path: Path) -> None:
    np.savez(path, images=np.zeros((1, 4, 4), np.uint8), labels=np.array([{"label": "bar"}], object))


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((1, 4, 4), np.uint8))


def half_an_npz(path: Path) -> None:
    write_npz(path, *drawings(99, 0))
    cut_short(path)


@pytest.mark.parametrize(
    "write",
    [
        pickled,
        one_array,
        lambda path: np.savez(path, pictures=np.zeros(1), labels=np.zeros(1)),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("text,label\n"),
        half_an_npz,
    ],
)
def test_a_file_that_is_no_npz_is_refused_with_how_to_write_one(
    grey: Bundle, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a.npz is no NPZ file .*numpy.savez\(path, images=..., labels=...\)"):
        LabelledImages.read(grey, tmp_path / "a.npz")


def test_a_missing_path_is_one_sentence(grey: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent can't be read \(No such file.*give an NPZ file or a folder"):
        LabelledImages.read(grey, tmp_path / "absent")


def test_nothing_usable_has_its_own_error(grey: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bar").mkdir()
    empty = write_npz(tmp_path / "a.npz", np.zeros((0, 4, 4), np.uint8), [])
    for path in (tmp_path, empty):
        with pytest.raises(NoExamples, match=r"no usable image \(0 skipped\): give"):
            LabelledImages.read(grey, path)
    (tmp_path / "bar" / "notes.txt").write_text("not an image, and not counted")
    (tmp_path / "bar" / "broken.PNG").write_text("counted")
    with pytest.raises(NoExamples, match=r"\(1 skipped\)"):
        LabelledImages.read(grey, tmp_path, skip_bad=True)


def test_every_image_comes_once_and_counts_for_its_patches(grey: Bundle, tmp_path: Path) -> None:
    images = LabelledImages.read(grey, write_npz(tmp_path / "a.npz", *drawings(20, 0)))
    assert [len(batch[LABELS]) for batch in in_order_of_size(images, 8)] == [8, 8, 4]
    parts = micro_batches(images, range(20), tokens=GREY.tokens * 6)
    assert [len(part[LABELS]) for part in parts] == [6, 6, 6, 2]
