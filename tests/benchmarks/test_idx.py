import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo_ray.benchmarks import load_stream
from zoo_ray.benchmarks.idx import idx_files_exist, read_idx
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


IMAGES = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
LABELS = np.array([2, 0, 1, 2, 0, 1], dtype=np.uint8)
CONTENT = {
    "train-images-idx3-ubyte": idx_bytes(IMAGES),
    "train-labels-idx1-ubyte": idx_bytes(LABELS),
    "t10k-images-idx3-ubyte": idx_bytes(255 - IMAGES[:3]),
    "t10k-labels-idx1-ubyte": idx_bytes(LABELS[:3]),
}


def write_idx(
    folder: Path,
    *,
    rename: Callable[[str], str] = lambda name: name,
    encode: Callable[[bytes], bytes] = lambda content: content,
    **replaced: bytes,
) -> Path:
    """Write an IDX data set; `replaced` is by file name with `_` for `-`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENT.items():
        content = replaced.get(name.replace("-", "_"), encode(content))
        (folder / rename(name)).write_bytes(content)
    return folder


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_labels_and_order(tmp_path: Path, separator: str, suffix: str) -> None:
    write_idx(
        tmp_path,
        rename=lambda name: name.replace("-idx", f"{separator}idx") + suffix,
        encode=gzip.compress if suffix else bytes,
    )
    assert idx_files_exist(tmp_path)
    source = read_idx(tmp_path)
    assert source.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(source.train.labels, LABELS)
    np.testing.assert_array_equal(source.train.read(np.arange(6)), IMAGES[..., None])
    np.testing.assert_array_equal(
        source.test.read(np.array([2, 0])), 255 - IMAGES[[2, 0], ..., None]
    )
    np.testing.assert_array_equal(source.test.labels, LABELS[:3])


def test_a_gzipped_file_is_known_by_its_content(tmp_path: Path) -> None:
    source = read_idx(write_idx(tmp_path, encode=gzip.compress))
    np.testing.assert_array_equal(source.train.labels, LABELS)


def _bad_checksum(content: bytes) -> bytes:
    packed = bytearray(gzip.compress(content))
    packed[-8] ^= 1
    return bytes(packed)


TERABYTES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31)
IMAGE_FILE = CONTENT["train-images-idx3-ubyte"]
DAMAGED = {
    "empty": (b"", "starts with nothing, not with 00000803"),
    "text": (b"<html>", "starts with 3c68746d, not with 00000803"),
    "labels instead of images": (idx_bytes(LABELS), "in 3 dimensions"),
    "floats": (b"\0\0\x0d\x03" + IMAGE_FILE[4:], "starts with 00000d03"),
    "header cut off": (IMAGE_FILE[:9], "the header is cut off"),
    "cut off": (IMAGE_FILE[:-1], "120 bytes promised, 119 there"),
    "too long": (IMAGE_FILE + b"\0", "more bytes than the 120"),
    "terabytes": (TERABYTES, "it cannot hold them"),
    "no images": (idx_bytes(IMAGES[:0]), "is empty"),
    "gzip of terabytes": (gzip.compress(TERABYTES), "it cannot hold them"),
    "gzip of a cut file": (gzip.compress(IMAGE_FILE[:-1]), "120 bytes promised, 119 there"),
    "gzip of a long file": (gzip.compress(IMAGE_FILE + b"\0"), "more bytes than the 120"),
    "gzip cut off": (gzip.compress(IMAGE_FILE)[:-30], "ended before"),
    "gzip without its end": (gzip.compress(IMAGE_FILE)[:-4], "ended before"),
    "gzip with a wrong checksum": (_bad_checksum(IMAGE_FILE), "CRC check failed"),
    "gzip with bytes after it": (gzip.compress(IMAGE_FILE) + b"junk", "damaged"),
    "gzip of noise": (b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 40, "damaged"),
    "one image fewer": (idx_bytes(IMAGES[:-1]), "5 images, but 6 labels"),
}


@pytest.mark.parametrize(("content", "why"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, content: bytes, why: str) -> None:
    folder = write_idx(tmp_path, train_images_idx3_ubyte=content)
    with pytest.raises(UserError, match=why) as caught:
        read_idx(folder)
    assert str(folder / "train-images-idx3-ubyte") in str(caught.value)


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write_idx(tmp_path) / name).unlink()
    assert not idx_files_exist(tmp_path)
    with pytest.raises(UserError, match=f"no {name} .or {name}.gz. here"):
        read_idx(tmp_path)


def test_a_label_without_a_class_is_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path)
    with pytest.raises(UserError, match="train labels: row 0 has label 2, allowed is 0 to 1"):
        read_idx(folder, class_names=("a", "b"))


def test_fashion_mnist_is_read_where_torchvision_puts_it(tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw", rename=lambda name: name + ".gz")
    config = BenchmarkConfig(dataset="fashion_mnist", tasks=[[2, 0]], data_dir=str(tmp_path))
    (task,) = load_stream(config)
    assert task.name == "pullover, T-shirt/top"
    np.testing.assert_array_equal(task.train.labels, [0, 1, 0, 1])
    np.testing.assert_array_equal(task.train.images, IMAGES[[0, 1, 3, 4], ..., None])


def test_fashion_mnist_itself() -> None:
    dataset = os.environ.get("ZOO_RAY_FASHION_MNIST")
    if not dataset:
        pytest.skip("ZOO_RAY_FASHION_MNIST names no data set, such as idx:/path")
    stream = load_stream(BenchmarkConfig(dataset=dataset, tasks=[[0, 1], [8, 9]], validation=0.1))
    for task in stream:
        assert [len(part) for _, part in task.parts()] == [10_800, 1_200, 2_000]
        assert task.image_shape == (28, 28, 1)
    # Means as known from the literature's normalisation (0.2860 over all ten classes).
    every = load_stream(BenchmarkConfig(dataset=dataset, tasks=[list(range(10))]))
    assert every[0].train.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
