import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from zoo_ray.benchmarks import load_stream
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError
from zoo_ray.task import Task


def picture(seed: int, *, channels: int = 3, size: tuple[int, int] = (12, 10)) -> Image.Image:
    shape = (*size, channels) if channels > 1 else size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def fill(folder: Path, *seeds: int, suffix: str = ".png", **options) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        picture(seed, **options).save(folder / f"{seed:03}{suffix}")


def load(folder: Path, tasks: list[list[int | str]] | None = None, **keys) -> list[Task]:
    return load_stream(BenchmarkConfig(dataset=f"folder:{folder}", tasks=tasks or [[0, 1]], **keys))


def pixels(*seeds: int, **options) -> np.ndarray:
    images = np.stack([np.asarray(picture(seed, **options)) for seed in seeds])
    return images if images.ndim == 4 else images[..., np.newaxis]


@pytest.fixture
def two_splits(tmp_path: Path) -> Path:
    """cat and dog, with images 0 to 3 for training and 10 to 12 for testing."""
    fill(tmp_path / "train" / "dog", 1, 0)
    fill(tmp_path / "train" / "cat", 3, 2)
    fill(tmp_path / "test" / "dog", 10)
    fill(tmp_path / "test" / "cat", 12, 11)
    return tmp_path


def test_images_labels_names_and_order(two_splits: Path) -> None:
    (task,) = load(two_splits, [["dog", 0]])
    assert task.classes == ("dog", "cat")
    np.testing.assert_array_equal(task.train.images, pixels(2, 3, 0, 1))
    np.testing.assert_array_equal(task.train.labels, [1, 1, 0, 0])
    np.testing.assert_array_equal(task.test.images, pixels(11, 12, 10))
    np.testing.assert_array_equal(task.test.labels, [1, 1, 0])


def test_classes_are_numbered_and_images_ordered_as_torchvision_does(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 500)):
        for number, name in enumerate(("b", "B", "10", "9", "é", "_", "a b")):
            fill(tmp_path / split / name, *range(first + 9 * number, first + 9 * number + 3))
    theirs = ImageFolder(str(tmp_path / "train"))
    (task,) = load(tmp_path, [list(range(7))])
    assert list(task.classes) == theirs.classes
    np.testing.assert_array_equal(task.train.labels, theirs.targets)
    np.testing.assert_array_equal(
        task.train.images, np.stack([np.asarray(image) for image, _ in theirs])
    )


@pytest.mark.parametrize("name", ["validation", "val"])
def test_without_test_another_folder_is_the_test_split(two_splits: Path, name: str) -> None:
    whole = load(two_splits)[0].digest
    fill(two_splits / "val" / "lynx", 5)
    assert load(two_splits)[0].digest == whole  # ignored
    if name == "val":
        (two_splits / "val" / "lynx" / "005.png").unlink()
        (two_splits / "val" / "lynx").rmdir()
        (two_splits / "val").rmdir()
    (two_splits / "test").rename(two_splits / name)
    assert load(two_splits)[0].digest == whole


def test_what_is_hidden_or_no_image_is_ignored(two_splits: Path) -> None:
    whole = load(two_splits)[0].digest
    fill(two_splits / "train" / ".cache", 7)
    fill(two_splits / "train" / "cat" / ".thumbnails", 7)
    (two_splits / "train" / "cat" / ".hidden.png").write_bytes(b"x")
    (two_splits / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (two_splits / "train" / "cat" / "png").write_bytes(b"x")
    (two_splits / "train" / "labels.csv").write_text("x")
    picture(0).save(two_splits / "loose.png")
    assert load(two_splits)[0].digest == whole


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "Png", "webp", "BMP", "gif", "tif", "tiff"])
def test_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path / "a", 0, 1, suffix=f".{suffix}")
    fill(tmp_path / "b", 2, 3, suffix=f".{suffix}")
    (task,) = load(tmp_path)
    assert task.image_shape == (12, 10, 3)
    (row,) = np.flatnonzero(task.test.labels == 0)
    files = [Image.open(tmp_path / "a" / f"{seed:03}.{suffix}").convert("RGB") for seed in (0, 1)]
    assert any(np.array_equal(task.test.images[row], np.asarray(file)) for file in files)


def test_links_are_followed(two_splits: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = load(two_splits)[0].digest
    away = tmp_path_factory.mktemp("away")
    (two_splits / "train" / "cat").rename(away / "kept")
    (two_splits / "train" / "cat").symlink_to(away / "kept")
    (two_splits / "test" / "dog" / "010.png").rename(away / "10")
    (two_splits / "test" / "dog" / "010.png").symlink_to(away / "10")
    assert load(two_splits)[0].digest == whole


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    fill(tmp_path / "a", 0, 1, 2, channels=1)
    fill(tmp_path / "b", 3, 4, channels=1)
    assert load(tmp_path, [["a"]])[0].image_shape == (12, 10, 1)
    grey = load(tmp_path, [["a"]])[0]
    fill(tmp_path / "b", 5)
    (colour,) = load(tmp_path, [["a"]])  # also where no task wants the colour
    np.testing.assert_array_equal(colour.train.images, grey.train.images.repeat(3, axis=-1))


def test_only_wanted_images_are_decoded(two_splits: Path) -> None:
    for split in ("train", "test"):
        (two_splits / split / "dog" / "900.png").write_bytes(b"no image")
    assert len(load(two_splits, [["cat"]])[0].train) == 2
    with pytest.raises(UserError, match=r"train/dog/900.png: the image cannot be decoded"):
        load(two_splits)


# ---- the test split that is set aside


@pytest.fixture
def one_split(tmp_path: Path) -> Path:
    """Ten cats, images 0 to 9, and five dogs, 10 to 14; the first pixel tells."""
    for name, first, count in (("cat", 0, 10), ("dog", 10, 5)):
        (tmp_path / name).mkdir()
        for number in range(first, first + count):
            image = Image.fromarray(np.full((9, 8), number, np.uint8))
            image.save(tmp_path / name / f"{number:02}.png")
    return tmp_path


def numbers(task: Task) -> tuple[list[int], list[int]]:
    train, test = (part.images[:, 0, 0, 0].tolist() for part in (task.train, task.test))
    return train, test


def test_a_share_of_each_class_is_set_aside(one_split: Path) -> None:
    (task,) = load(one_split)
    train, test = numbers(task)
    assert train == sorted(train)
    assert test == sorted(test)
    assert sorted(train + test) == list(range(15))
    assert np.bincount(task.test.labels).tolist() == [2, 1]
    assert load(one_split)[0].digest == task.digest
    assert load(one_split, test_share=0.01)[0].test.labels.tolist() == [0, 1]
    assert np.bincount(load(one_split, test_share=0.999)[0].train.labels).tolist() == [1, 1]
    # The same everywhere and in every version.
    assert test == [3, 6, 14]


def test_another_seed_sets_other_samples_aside(one_split: Path) -> None:
    seen = {tuple(numbers(load(one_split, split_seed=seed)[0])[1]) for seed in range(12)}
    assert len(seen) > 6


def test_a_class_that_is_added_changes_no_other(one_split: Path) -> None:
    before = load(one_split, [["cat", "dog"]])
    fill(one_split / "bee", 1, 2, channels=1, size=(9, 8))
    after = load(one_split, [["cat", "dog"], ["bee"]])
    assert after[0].digest == before[0].digest


def test_validation_comes_out_of_what_is_left(one_split: Path) -> None:
    (whole,), (held,) = load(one_split), load(one_split, validation=0.5)
    assert held.test.images.tolist() == whole.test.images.tolist()
    assert (len(held.train), len(held.validation)) == (6, 6)


def test_one_image_cannot_be_split(one_split: Path) -> None:
    fill(one_split / "bee", 1, channels=1, size=(9, 8))
    assert len(load(one_split, [["cat", "dog"]])[0].test) == 3
    with pytest.raises(UserError, match=r"class 0 \(bee\), of which folder:.* has no test samples"):
        load(one_split, [["bee", "cat"]])


def test_classes_may_be_called_train_and_test(one_split: Path) -> None:
    (one_split / "cat").rename(one_split / "train")
    (one_split / "dog").rename(one_split / "test")
    assert load(one_split)[0].classes == ("test", "train")


# ---- what is wrong shows in one line


def refused(folder: Path, why: str, **keys) -> None:
    with pytest.raises(UserError, match=why) as caught:
        load(folder, **keys)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_no_folders(tmp_path: Path) -> None:
    refused(tmp_path, r": no folders here; put images into PATH/CLASS/, or")
    picture(0).save(tmp_path / "0.png")
    refused(tmp_path, r": no folders here")


def test_train_without_test(two_splits: Path) -> None:
    (two_splits / "test").rename(two_splits / "Test")
    refused(two_splits, "there is train, but no test or validation or val; add one, or give")
    assert len(load(two_splits / "train")[0].test) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class(two_splits: Path, split: str) -> None:
    (two_splits / split / "eel").mkdir()
    (two_splits / split / "eel" / "readme.txt").write_text("x")
    refused(two_splits, rf"{split}/eel: no images here \(.jpg, .*take the folder away")


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_a_class_that_the_other_split_has_not(two_splits: Path, split: str, other: str) -> None:
    fill(two_splits / split / "eel", 7)
    refused(two_splits, f"{split}/eel: a class of which {other} has no folder; put images into .*")


def test_folders_within_a_class(two_splits: Path) -> None:
    fill(two_splits / "train" / "cat" / "more", 7)
    refused(two_splits, "cat/more: a folder within that of a class")


def test_links_that_lead_nowhere_or_round(two_splits: Path) -> None:
    cat = two_splits / "train" / "cat"
    (cat / "up").symlink_to(two_splits)
    refused(two_splits, "cat/up: a folder within that of a class")
    (cat / "up").unlink()
    for target in ("gone.png", "900.png"):
        (cat / "900.png").symlink_to(target)
        refused(two_splits, "900.png")
        (cat / "900.png").unlink()
    for target in ("eel", "gone"):
        (two_splits / "train" / "eel").symlink_to(target)
        refused(two_splits, r"cannot be read \((Too many levels|No such file).*train/eel\)")
        (two_splits / "train" / "eel").unlink()


def test_what_is_no_file_is_not_waited_for(two_splits: Path) -> None:
    os.mkfifo(two_splits / "train" / "cat" / "900.png")
    refused(two_splits, "cat/900.png: no file; put the image there, or take it away")


def test_a_file_that_cannot_be_read(two_splits: Path) -> None:
    # Root may read whatever it likes, but nobody can read this from its start.
    (two_splits / "train" / "dog" / "900.png").symlink_to("/proc/self/mem")
    refused(two_splits, r"dog/900.png: cannot be read \(Input/output error\)")


@pytest.mark.parametrize("keep", [0, 8, 100, -40])
def test_a_torn_image(two_splits: Path, keep: int) -> None:
    path = two_splits / "test" / "cat" / "011.png"
    path.write_bytes(path.read_bytes()[:keep])
    refused(two_splits, r"test/cat/011.png: the image cannot be decoded")


def test_hostile_names(tmp_path: Path) -> None:
    names = [b"\x1b[2J", b"two\nlines", b"\xff\xfe", b"x" * 250, b"[bold]", b"  "]
    for number, name in enumerate(names):
        fill(tmp_path / os.fsdecode(name), 10 * number, 10 * number + 1)
    (task,) = load(tmp_path, [list(range(len(names)))])
    by_number = sorted(zip(map(os.fsdecode, names), names, strict=True))
    shown = {b"\x1b[2J": "[2J", b"two\nlines": "two lines", b"x" * 250: "x" * 57 + "..."}
    for number, (_, name) in enumerate(by_number):
        nothing_left = name in (b"\xff\xfe", b"  ")
        expected = str(number) if nothing_left else shown.get(name, name.decode())
        assert task.classes[number] == expected
    assert load(tmp_path, [["two\nlines", "x" * 250]])[0].classes == ("two lines", "x" * 57 + "...")
    (tmp_path / "two\nlines" / "a\x1b[31m\nb.png").write_bytes(b"")
    refused(
        tmp_path, r"two lines/a \[31m b.png: the image cannot be decoded", tasks=[["two\nlines"]]
    )


# ---- one size


def test_images_of_any_size_are_scaled_on_request(tmp_path: Path) -> None:
    fill(tmp_path / "a", 0, 1, size=(40, 30))
    fill(tmp_path / "b", 2, 3, size=(16, 70))
    refused(tmp_path, r"where \d+x\d+ are expected; bring .* as benchmark.image_size does")
    (task,) = load(tmp_path, image_size=16)
    assert task.image_shape == (16, 16, 3)
    (task,) = load(tmp_path, image_size=[8, 24])
    assert task.image_shape == (8, 24, 3)


def test_a_test_split_of_another_size(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "a", 0)
    fill(tmp_path / "test" / "a", 0, size=(9, 9))
    refused(tmp_path, r"\(12, 10, 3\), its test images \(9, 9, 3\).*image_size", tasks=[["a"]])
    (task,) = load(tmp_path, [["a"]], image_size=9)
    np.testing.assert_array_equal(task.test.images, pixels(0, size=(9, 9)))


def test_transparency_and_palettes(tmp_path: Path) -> None:
    file = BytesIO()
    picture(0).quantize(256).save(file, "PNG")
    fill(tmp_path / "a", 0)
    (tmp_path / "a" / "palette.png").write_bytes(file.getvalue())
    (task,) = load(tmp_path, [["a"]], image_size=8)
    assert task.image_shape == (8, 8, 3)
