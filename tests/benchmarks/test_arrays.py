import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from toys import toy_part

from zoo_ray.benchmarks import arrays_source, load_stream
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError
from zoo_ray.task import Task

KERAS = ("x_train", "y_train", "x_test", "y_test")
MEDMNIST = ("train_images", "train_labels", "test_images", "test_labels")


def arrays(samples: int = 12, *, channels: int = 1, seed: int = 0, classes: int = 3):
    part = toy_part(samples, classes=classes, size=9, channels=channels, seed=seed)
    return part.images, part.labels


TRAIN, TEST = arrays(), arrays(6, seed=1)


def given(tasks=None, *, keys=None, **options) -> list[Task]:
    config = BenchmarkConfig(dataset="arrays", tasks=tasks or [[2, 0]], **keys or {})
    return load_stream(config, arrays_source(**options))


def saved(path: Path, tasks=None, *, keys=None, **content) -> list[Task]:
    np.savez(path, **content)
    return load_stream(
        BenchmarkConfig(dataset=f"npz:{path}", tasks=tasks or [[2, 0]], **keys or {})
    )


def test_images_labels_names_and_order() -> None:
    (task,) = given(train=TRAIN, test=TEST, class_names=["ant", "bee", "cat"])
    rows, test_rows = (np.flatnonzero(labels != 1) for _, labels in (TRAIN, TEST))
    assert task.classes == ("cat", "ant")
    np.testing.assert_array_equal(task.train.images, TRAIN[0][rows])
    np.testing.assert_array_equal(task.train.labels, [1, 0] * 4)
    np.testing.assert_array_equal(task.test.images, TEST[0][test_rows])
    for _, part in task.parts():
        assert part.images.dtype == np.uint8
        assert part.images.flags.c_contiguous
        assert part.labels.dtype == np.int64
    assert given(train=TRAIN, test=TEST)[0].classes == ("2", "0")


@pytest.mark.parametrize("names", [KERAS, MEDMNIST])
def test_a_file_is_the_same_as_its_arrays(tmp_path: Path, names: tuple[str, ...]) -> None:
    content = dict(zip(names, (*TRAIN, *TEST), strict=True))
    more = {"val_images": TEST[0][:2], "val_labels": TEST[1][:2], "notes": np.zeros(3)}
    (task,) = saved(tmp_path / "own.npz", **content, **more)
    assert task.digest == given(train=TRAIN, test=TEST)[0].digest
    np.savez_compressed(tmp_path / "own.npz", **content)
    config = BenchmarkConfig(dataset=f"npz:{tmp_path / 'own.npz'}", tasks=[[2, 0]])
    assert load_stream(config)[0].digest == task.digest


@pytest.mark.parametrize("names", [["a", "b\n", "c"], [b"a", b"b\n", b"c"]])
def test_a_file_may_name_classes(tmp_path: Path, names: list[str]) -> None:
    content = dict(zip(KERAS, (*TRAIN, *TEST), strict=True))
    (task,) = saved(tmp_path / "own.npz", [["b", 2]], class_names=np.array(names), **content)
    assert task.classes == ("b", "c")


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.uint64, ">i4"])
def test_shapes_and_integers_of_all_kinds(integer) -> None:
    (plain,) = given(train=TRAIN, test=TEST)
    (other,) = given(
        train=(TRAIN[0][..., 0], TRAIN[1].astype(integer)[:, np.newaxis]),
        test=(np.asfortranarray(TEST[0]), TEST[1].tolist()),
    )
    assert other.digest == plain.digest


def test_without_a_test_split_one_is_set_aside(tmp_path: Path) -> None:
    whole = arrays(30)
    keys = {"test_share": 0.3, "split_seed": 5}
    (task,) = given(keys=keys, train=whole)
    assert np.bincount(task.test.labels).tolist() == [3, 3]
    both = np.concatenate([task.train.images, task.test.images])
    expected = whole[0][whole[1] != 1]
    assert sorted(map(bytes, both)) == sorted(map(bytes, expected))
    (same,) = saved(tmp_path / "own.npz", keys=keys, images=whole[0], labels=whole[1])
    assert same.digest == task.digest
    assert given(train=whole)[0].digest != task.digest


def test_labels_with_gaps_are_classes_without_samples() -> None:
    images, labels = arrays(12)
    (task,) = given([[900_000, 0]], train=(images, labels * 450_000))
    assert task.classes == ("900000", "0")
    with pytest.raises(UserError, match=r"class 7 \(7\), of which arrays has no training samples"):
        given([[7]], train=(images, labels * 450_000))


def test_images_are_scaled_on_request() -> None:
    for channels in (1, 3):
        train = arrays(channels=channels)
        (task,) = given(keys={"image_size": [8, 16]}, train=train)
        assert task.image_shape == (8, 16, channels)
        (plain,) = given(train=train)
        assert given(keys={"image_size": 9}, train=train)[0].digest == plain.digest


IMAGES, LABELS = TRAIN


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ((IMAGES / 255, LABELS), r"train images: an array of float64 and shape \(12, 9, 9, 1\); a"),
        ((IMAGES.astype(int), LABELS), "train images: an array of int64 and shape .*; convert"),
        ((IMAGES[:, 0, 0], LABELS), r"train images: an array of uint8 and shape \(12, 1\)"),
        ((IMAGES.transpose(0, 3, 1, 2), LABELS), r"shape \(12, 1, 9, 9\); allowed is uint8 of sh"),
        ((IMAGES.repeat(2, axis=3), LABELS), "with 1 or 3 channels"),
        ((IMAGES[:0], LABELS[:0]), r"shape \(0, 9, 9, 1\), which is empty"),
        ((IMAGES[:, :0], LABELS), r"shape \(12, 0, 9, 1\), which is empty"),
        ((IMAGES, LABELS / 1), "train labels: an array of float64 and shape .*; allowed are integ"),
        ((IMAGES, LABELS > 0), "train labels: an array of bool"),
        ((IMAGES, np.eye(3, dtype=int)[LABELS]), r"labels: an array of int64 and shape \(12, 3\)"),
        ((IMAGES, LABELS[:-1]), "train: 12 images, but 11 labels; give each image one"),
        ((IMAGES, LABELS - 1), "train labels: row 0 has label -1, allowed is 0 to 999999"),
        ((IMAGES, LABELS * 10**12), "row 1 has label 1000000000000, allowed is 0 to 999999"),
    ],
)
def test_arrays_that_are_no_images_and_labels(tmp_path: Path, train, said: str) -> None:
    with pytest.raises(UserError, match=f"^arrays: {said}" if said.startswith("train") else said):
        arrays_source(train=train, test=TEST)
    with pytest.raises(UserError, match=said) as caught:
        saved(tmp_path / "own.npz", images=train[0], labels=train[1])
    assert str(caught.value).startswith(f"{tmp_path / 'own.npz'}: ")


def test_lists_of_unequal_parts_are_no_arrays() -> None:
    ragged = [IMAGES[0], IMAGES[1][:5]]
    with pytest.raises(UserError, match=r"train images: no array \(.*\); all must be of one shape"):
        arrays_source(train=(ragged, LABELS[:2]))
    with pytest.raises(UserError, match=r"train labels: no array \(.*\); all must be of one shape"):
        arrays_source(train=(IMAGES[:2], [[1], [1, 2]]))


def test_the_test_split_and_class_names_are_checked_too() -> None:
    with pytest.raises(UserError, match="arrays: test: 6 images, but 1 label;"):
        arrays_source(train=TRAIN, test=(TEST[0], TEST[1][:1]))
    with pytest.raises(UserError, match="train labels: row 2 has label 2, allowed is 0 to 1"):
        arrays_source(train=TRAIN, test=TEST, class_names=["a", "b"])
    for names in ("abc", [1, 2, 3], [["a", "b", "c"]], []):
        with pytest.raises(UserError, match=r"class_names: an array of .*; give a stri"):
            arrays_source(train=TRAIN, test=TEST, class_names=names)
    with pytest.raises(UserError, match=r"\(9, 9, 1\), its test images \(9, 9, 3\)"):
        given(train=TRAIN, test=arrays(channels=3))


@pytest.mark.parametrize("pair", [IMAGES, IMAGES[:2], TRAIN[:1], (*TRAIN, LABELS), 3, "xy"])
def test_what_is_no_pair_is_refused(pair) -> None:
    with pytest.raises(UserError, match=r"^arrays: train: not a pair; give \(images, labels\)"):
        arrays_source(train=pair)
    with pytest.raises(UserError, match=r"^arrays: test: not a pair"):
        arrays_source(train=TRAIN, test=pair)


def refused(path: Path, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        load_stream(BenchmarkConfig(dataset=f"npz:{path}", tasks=[[0]]))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_file_of_other_arrays(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x_train=IMAGES, y_train=LABELS, **{"two\nlines": LABELS})
    refused(
        path, r"own.npz: its arrays are x_train, y_train, two lines; expected are x_train, y_tr"
    )
    np.savez(path)
    refused(path, "its arrays are none; expected are .*, or images, labels; save them so")


@pytest.mark.parametrize("keep", [0, 10, 500, -1, -400])
def test_a_torn_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "own.npz: not a readable .npz file .*; save it again, by numpy.savez")


def test_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, images=IMAGES, labels=LABELS)
        content = bytearray(path.read_bytes())
        content[300] ^= 1
        path.write_bytes(content)
        refused(path, "own.npz: not a readable .npz file")


def test_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, images=np.array([print], dtype=object), labels=LABELS)
    refused(path, r"not a readable .npz file \(Object arrays cannot be loaded")
    with path.open("wb") as file:
        np.save(file, IMAGES)
    refused(path, r"not a readable .npz file \(no archive of arrays\)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"x")
        archive.writestr("labels", b"y")
    refused(path, "train images: an array of ")
    no_text = np.frombuffer(b"\xff" * 12, dtype="<U1")
    np.savez(path, images=IMAGES, labels=LABELS, class_names=no_text)
    refused(path, r"not a readable .npz file \(invalid maximum character")
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**15, 3, 3)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())
    refused(path, r"not a readable .npz file \(Unable to allocate")


@pytest.mark.parametrize(
    ("path", "why"),
    [("", "the path is empty; give .*npz:data/my_images.npz"), ("/no/such.npz", "no such file")],
)
def test_a_path_that_leads_nowhere(path: str, why: str, tmp_path: Path) -> None:
    refused(path, why)
    refused(tmp_path, "no such file; give a file of arrays")


def test_arrays_come_from_python_alone() -> None:
    with pytest.raises(UserError, match=r"arrays: they are given in Python .* as npz:PATH$"):
        load_stream(BenchmarkConfig(dataset="arrays", tasks=[[0]]))
    with pytest.raises(UserError, match="dataset = digits: a source is given too; say arrays, or"):
        load_stream(BenchmarkConfig(dataset="digits", tasks=[[0]]), arrays_source(train=TRAIN))
    with pytest.raises(UserError, match=r"^source: a tuple; give what .*arrays_source\(train="):
        load_stream(BenchmarkConfig(dataset="arrays", tasks=[[0]]), TRAIN)
