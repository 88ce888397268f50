import json
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoo_ray.benchmarks import load_stream
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError
from zoo_ray.task import Task

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def pixels(count: int, *, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (count, 6, 5, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, kind)
    return file.getvalue()


def write(
    path: Path,
    images: Sequence[Any],
    labels: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    label_type: pa.DataType | None = None,
    more: dict[str, pa.Array] | None = None,
    **options: Any,
) -> None:
    """Write one file; an image is an array, the bytes of a file, or a struct."""
    structs = [
        image
        if image is None or isinstance(image, dict)
        else {"bytes": image if isinstance(image, bytes) else encoded(image), "path": None}
        for image in images
    ]
    columns = {"img": pa.array(structs, IMAGE_TYPE), "label": pa.array(labels, label_type)}
    table = pa.table(columns | (more or {}))
    if names is not None:
        features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def write_both(folder: Path, **options: Any) -> None:
    write(folder / "train-00000-of-00001.parquet", pixels(8), [0, 1, 2, 0, 1, 2, 0, 1], **options)
    write(folder / "test-00000-of-00001.parquet", pixels(3, seed=1), [2, 1, 0], **options)


def load(folder: Path, tasks: list[list[int]] | None = None, **options: Any) -> list[Task]:
    return load_stream(
        BenchmarkConfig(dataset=f"parquet:{folder}", tasks=tasks or [[2, 0]], **options)
    )


def test_images_labels_names_and_order(tmp_path: Path) -> None:
    write_both(tmp_path, names=["cat", "dog", "eel"], row_group_size=3)
    first, second = load(tmp_path, [[2, 0], [1]])
    assert first.classes == ("eel", "cat")
    assert (first.name, second.name) == ("eel, cat", "dog")
    np.testing.assert_array_equal(first.train.images, pixels(8)[[0, 2, 3, 5, 6]])
    np.testing.assert_array_equal(first.train.labels, [1, 0, 1, 0, 1])
    np.testing.assert_array_equal(first.test.images, pixels(3, seed=1)[[0, 2]])
    np.testing.assert_array_equal(first.test.labels, [0, 1])
    np.testing.assert_array_equal(second.train.images, pixels(8)[[1, 4, 7]])
    assert first.train.images.flags.c_contiguous


def test_shards_are_one_split_in_order(tmp_path: Path) -> None:
    for shard in range(3):
        rows = slice(4 * shard, 4 * shard + 4)
        path = tmp_path / "data" / f"train-{shard:05d}-of-00003-0123abcd.parquet"
        write(path, pixels(12)[rows], [0, 1, 0, 1], row_group_size=3)
    write(tmp_path / "data" / "test.parquet", pixels(2), [0, 1])
    (task,) = load(tmp_path, [[0, 1]])
    np.testing.assert_array_equal(task.train.images, pixels(12))
    assert task.name == "0, 1"


def test_many_images_in_many_threads_keep_their_places(tmp_path: Path) -> None:
    count = 1500
    write(tmp_path / "train.parquet", pixels(count), [row % 2 for row in range(count)])
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    (task,) = load(tmp_path, [[0, 1]])
    np.testing.assert_array_equal(task.train.images, pixels(count))


def test_jpeg_is_decoded_as_pillow_does(tmp_path: Path) -> None:
    files = [encoded(image, "JPEG") for image in pixels(2)]
    for name in ("train.parquet", "test.parquet"):
        write(tmp_path / name, files, [0, 1])
    (task,) = load(tmp_path, [[0, 1]])
    expected = [np.asarray(Image.open(BytesIO(file))) for file in files]
    np.testing.assert_array_equal(task.train.images, expected)


def test_validation_files_are_the_test_split_only_without_test_files(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2), [0, 1])
    write(tmp_path / "validation.parquet", pixels(2, seed=1), [0, 1])
    (task,) = load(tmp_path, [[0, 1]])
    np.testing.assert_array_equal(task.test.images, pixels(2, seed=1))
    write(tmp_path / "test.parquet", pixels(2, seed=2), [0, 1])
    (task,) = load(tmp_path, [[0, 1]])
    np.testing.assert_array_equal(task.test.images, pixels(2, seed=2))


@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_string_labels_are_classes_in_sorted_order(tmp_path: Path, text: pa.DataType) -> None:
    write(tmp_path / "train.parquet", pixels(4), ["dog", "ant", "cat", "dog"], label_type=text)
    write(tmp_path / "test.parquet", pixels(3), ["cat", "dog", "ant"])
    (task,) = load(tmp_path, [[2, 0]])
    assert task.classes == ("dog", "ant")
    np.testing.assert_array_equal(task.train.labels, [0, 1, 0])


@pytest.mark.parametrize("integer", [pa.int8(), pa.uint64(), pa.int32()])
def test_labels_may_be_any_integers(tmp_path: Path, integer: pa.DataType) -> None:
    write_both(tmp_path, label_type=integer)
    np.testing.assert_array_equal(load(tmp_path)[0].train.labels, [1, 0, 1, 0, 1])


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    grey = pixels(4, channels=1)
    black_and_white = Image.fromarray(grey[3, ..., 0]).convert("1")
    file = BytesIO()
    black_and_white.save(file, "PNG")
    write(tmp_path / "train.parquet", [*grey[:3], file.getvalue()], [0, 1, 0, 1])
    write(tmp_path / "test.parquet", grey, [0, 1, 0, 1])
    (task,) = load(tmp_path, [[0, 1]])
    assert task.image_shape == (6, 5, 1)
    np.testing.assert_array_equal(task.train.images[:3], grey[:3])
    np.testing.assert_array_equal(task.train.images[3, ..., 0], np.asarray(black_and_white) * 255)


def test_grey_images_among_colour_ones_get_three_channels(tmp_path: Path) -> None:
    """Also where the colour is in a class that no task wants: a longer stream may want it."""
    grey = pixels(3, channels=1)
    write(tmp_path / "train.parquet", [*grey, pixels(1)[0]], [0, 1, 0, 2])
    write(tmp_path / "test.parquet", grey, [0, 1, 2])
    short, long = load(tmp_path, [[0, 1]]), load(tmp_path, [[0, 1], [2]])
    np.testing.assert_array_equal(short[0].train.images, grey.repeat(3, axis=-1))
    assert short[0].digest == long[0].digest


def test_transparency_is_dropped_and_palettes_are_resolved(tmp_path: Path) -> None:
    image = pixels(1)[0] // 64 * 64
    palette = BytesIO()
    Image.fromarray(image).quantize(256).save(palette, "PNG")
    transparent = np.concatenate([image, np.full((6, 5, 1), 9, np.uint8)], axis=-1)
    for name in ("train.parquet", "test.parquet"):
        write(tmp_path / name, [transparent, palette.getvalue()], [0, 1])
    (task,) = load(tmp_path, [[0, 1]])
    np.testing.assert_array_equal(task.train.images, [image, image])


def test_images_may_lie_beside_the_file(tmp_path: Path) -> None:
    images = pixels(3)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(encoded(images[1]))
    beside = {"bytes": None, "path": "images/1.png"}
    write(tmp_path / "train.parquet", [images[0], beside, images[2]], [0, 1, 0])
    write(tmp_path / "test.parquet", images, [0, 1, 0])
    np.testing.assert_array_equal(load(tmp_path, [[0, 1]])[0].train.images, images)


def test_only_wanted_images_are_decoded(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [pixels(1)[0], b"no image"], [0, 1])
    write(tmp_path / "test.parquet", [pixels(1)[0], b"no image"], [0, 1])
    assert len(load(tmp_path, [[0]])[0].train) == 1


def test_row_groups_without_wanted_images_are_skipped(tmp_path: Path) -> None:
    for name in ("train.parquet", "test.parquet"):
        write(tmp_path / name, pixels(9), [0, 0, 0, 1, 1, 1, 2, 2, 1], row_group_size=2)
    (task,) = load(tmp_path, [[2]])
    np.testing.assert_array_equal(task.train.images, pixels(9)[[6, 7]])
    (task,) = load(tmp_path, [[0, 2]])
    np.testing.assert_array_equal(task.train.images, pixels(9)[[0, 1, 2, 6, 7]])


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    more = {"coarse": pa.array([1, 0, 0]), "text": pa.array(["a", "b", "c"])}
    for name in ("train.parquet", "test.parquet"):
        write(tmp_path / name, pixels(3), [0, 1, 2], more=more)
    with pytest.raises(UserError, match=r"\(label, coarse\); choose one by benchmark.label_column"):
        load(tmp_path)
    (task,) = load(tmp_path, [[1, 0]], label_column="coarse", image_column="img")
    np.testing.assert_array_equal(task.train.labels, [0, 1, 1])
    assert load(tmp_path, [[2]], label_column="text")[0].classes == ("c",)


def test_class_names_tell_the_label_column(tmp_path: Path) -> None:
    more = {"id": pa.array(range(3))}
    for name in ("train.parquet", "test.parquet"):
        write(tmp_path / name, pixels(3), [0, 1, 2], names=["a", "b", "c"], more=more)
    assert load(tmp_path)[0].classes == ("c", "a")


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"info": {"features": {"label": 3}}}']
)
def test_broken_metadata_means_numbered_classes(tmp_path: Path, metadata: bytes) -> None:
    write_both(tmp_path)
    path = tmp_path / "train-00000-of-00001.parquet"
    table = pq.read_table(path).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, path)
    assert load(tmp_path)[0].classes == ("2", "0")


def test_hostile_class_names_are_bounded(tmp_path: Path) -> None:
    write_both(tmp_path, names=["x" * 10_000, "\x1b[2J", "a\nb"])
    (task,) = load(tmp_path, [[2, 0, 1]])
    assert task.classes == ("a b", "x" * 57 + "...", "[2J")
    assert task.name == "a b and 2 more"


def refused(folder: Path, why: str, *where: str, **options: Any) -> None:
    with pytest.raises(UserError, match=why) as caught:
        load(folder, [[0, 1]], **options)
    message = str(caught.value)
    assert all(part in message for part in (str(folder), *where)), message
    assert len(message) < 1000


@pytest.mark.parametrize("row", [0, 5, 1400])
@pytest.mark.parametrize("kind", ["noise", "cut off", "empty", "EPS"])
def test_an_undecodable_image_is_named(tmp_path: Path, row: int, kind: str) -> None:
    files = [encoded(image) for image in pixels(1500)]
    files[row] = {
        "noise": b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
        "cut off": files[row][:-40],
        "empty": b"",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n",
    }[kind]
    labels = [number % 2 for number in range(1500)]
    write(tmp_path / "train-00000-of-00002.parquet", pixels(3), [0, 1, 0])
    write(tmp_path / "train-00001-of-00002.parquet", files, labels, row_group_size=100)
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    why = "has no image" if kind == "empty" else "the image cannot be decoded"
    refused(tmp_path, why, f"train-00001-of-00002.parquet: row {row}")


def test_one_size_for_all(tmp_path: Path) -> None:
    images = list(pixels(4))
    write(tmp_path / "train.parquet", [*images[:2], images[2][:5], images[3]], [0, 1, 0, 1])
    write(tmp_path / "test.parquet", images, [0, 1, 0, 1])
    refused(tmp_path, "an image of 5x5 pixels, where 5x6 are expected", "train.parquet: row 2")


def test_one_size_for_train_and_test(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2), [0, 1])
    write(tmp_path / "test.parquet", pixels(2)[:, :5], [0, 1])
    with pytest.raises(UserError, match=r"task 0, 1 have the shape \(6, 5, 3\).*\(5, 5, 3\)"):
        load(tmp_path, [[0, 1]])


def test_colour_tests_of_grey_training_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2, channels=1), [0, 1])
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    refused(tmp_path, "a colour image .RGB., while all training images are grey", "test.parquet")


def test_deep_images_are_refused(tmp_path: Path) -> None:
    file = BytesIO()
    Image.fromarray(np.full((6, 5), 1000, dtype=np.uint16)).save(file, "PNG")
    write(tmp_path / "train.parquet", [file.getvalue()] * 2, [0, 1])
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    refused(tmp_path, "an image of mode I;16; allowed are 8-bit", "train.parquet: row 0")


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (None, "has no image, neither bytes nor path"),
        ({"bytes": None, "path": None}, "has no image, neither bytes nor path"),
        ({"bytes": None, "path": "missing.png"}, "names an image that cannot be read"),
        ({"bytes": None, "path": "nul\0.png"}, "names an image that cannot be read"),
        ({"bytes": None, "path": "/etc/hostname"}, "outside of"),
        ({"bytes": None, "path": "../x.png"}, "outside of"),
    ],
)
def test_a_missing_image_is_named(tmp_path: Path, image: dict[str, Any] | None, why: str) -> None:
    write(tmp_path / "train.parquet", [pixels(1)[0], image], [0, 1])
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    refused(tmp_path, why, "train.parquet: row 1")


@pytest.mark.parametrize(
    ("labels", "options", "why"),
    [
        ([0, None], {}, "row 1 has no label"),
        ([0, -1], {}, "row 1 has label -1, allowed is 0 to"),
        ([0, 10**18], {}, "row 1 has label 1000000000000000000, allowed is 0 to 999999"),
        ([0, 2**64 - 1], {"label_type": pa.uint64()}, "row 1 has label 18446744073709551615"),
        ([0, 2], {"names": ["a", "b"]}, "row 1 has label 2, allowed is 0 to 1"),
        ([0.0, float("nan")], {}, "no label column.*label .double"),
        ([True, False], {}, "no label column.*label .bool"),
    ],
)
def test_labels_are_class_numbers(
    tmp_path: Path, labels: list[Any], options: dict[str, Any], why: str
) -> None:
    write(tmp_path / "train.parquet", pixels(2), labels, **options)
    write(tmp_path / "test.parquet", pixels(2), labels, **options)
    refused(tmp_path, why, "train.parquet")


def test_no_image_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pixel": [1.5, 2.5], "label": [0, 1]}), tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    refused(tmp_path, r"no image column.*pixel \(double\), label \(int64\)", "train.parquet")


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    write_both(tmp_path)
    refused(tmp_path, "benchmark.image_column = x is no image column", image_column="x")
    refused(tmp_path, "benchmark.label_column = img is no label column", label_column="img")


def test_splits_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2), [0, 1], names=["a", "b"])
    write(tmp_path / "test.parquet", pixels(2), [0, 1], names=["b", "a"])
    refused(tmp_path, "its class names differ from those of train.parquet", "test.parquet")
    write(tmp_path / "test.parquet", pixels(2), ["a", "b"])
    refused(tmp_path, "strings as labels, the other integers", "test.parquet")


def test_shards_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "train-a.parquet", pixels(2), [0, 1], names=["a", "b"])
    write(tmp_path / "train-b.parquet", pixels(2), [0, 1], names=["b", "a"])
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    refused(tmp_path, "differ from those of train-a.parquet", "train-b.parquet")


def test_no_files(tmp_path: Path) -> None:
    refused(tmp_path, r"no train-\*.parquet, here or in data/")
    write(tmp_path / "train.parquet", pixels(2), [0, 1])
    refused(tmp_path, r"no test-\*.parquet, here or in data/")


def test_a_missing_shard(tmp_path: Path) -> None:
    write_both(tmp_path)
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "train-00000-of-00002.parquet")
    refused(tmp_path, "train-00000-of-00002.parquet is one of 2 shards")


@pytest.mark.parametrize("keep", [0, 3, 200, -1, -200])
def test_a_torn_file(tmp_path: Path, keep: int) -> None:
    write_both(tmp_path)
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    refused(tmp_path, "not a readable Parquet file", path.name)


def test_a_changed_page(tmp_path: Path) -> None:
    write_both(tmp_path, write_page_checksum=True, compression="none")
    path = tmp_path / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 10] ^= 1
    path.write_bytes(content)
    refused(tmp_path, "not a readable Parquet file", path.name)


def test_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [], [], label_type=pa.int64())
    write(tmp_path / "test.parquet", [], [], label_type=pa.int64())
    with pytest.raises(UserError, match=r"task 1 names class 2, but parquet:.* has no classes"):
        load(tmp_path)


@pytest.mark.slow
def test_cifar10_itself() -> None:
    dataset = os.environ.get("ZOO_RAY_CIFAR10")
    if not dataset:
        pytest.skip("ZOO_RAY_CIFAR10 names no data set, such as parquet:/path")
    tasks = [[2 * number, 2 * number + 1] for number in range(5)]
    stream = load_stream(BenchmarkConfig(dataset=dataset, tasks=tasks))
    for task in stream:
        assert (len(task.train), len(task.test)) == (10_000, 2_000)
        assert task.image_shape == (32, 32, 3)
        assert np.bincount(task.train.labels).tolist() == [5_000, 5_000]
    assert stream[0].name == "airplane, automobile"
    # The literature's normalisation; JPEG moves a mean by less than a grey value.
    means = np.mean([task.train.images.mean(axis=(0, 1, 2)) for task in stream], axis=0) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-3)
