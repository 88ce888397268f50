import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from test_idx import idx_bytes, write_idx

from zoo_ray.benchmarks import arrays_source, load_stream
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError
from zoo_ray.task import Task


def digits(tasks: list[list[int]], *, validation: float = 0.0) -> list[Task]:
    return load_stream(BenchmarkConfig(dataset="digits", tasks=tasks, validation=validation))


def few_samples(folder: Path, train: list[int], test: list[int]) -> str:
    """A data set with the given labels; the first pixel of an image is its row."""

    def images(labels: list[int]) -> np.ndarray:
        return np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)

    write_idx(
        folder,
        train_images_idx3_ubyte=idx_bytes(images(train)),
        train_labels_idx1_ubyte=idx_bytes(np.array(train, np.uint8)),
        t10k_images_idx3_ubyte=idx_bytes(images(test)),
        t10k_labels_idx1_ubyte=idx_bytes(np.array(test, np.uint8)),
    )
    return f"idx:{folder}"


def test_the_digits_are_all_there_in_stored_order() -> None:
    scans = load_digits()
    (task,) = digits([list(range(10))])
    assert len(task.train) + len(task.test) == 1797
    for digit in range(10):
        rows = np.flatnonzero(scans.target == digit)
        train = task.train.images[task.train.labels == digit]
        test = task.test.images[task.test.labels == digit]
        assert len(test) == len(rows) // 5
        images = np.concatenate([train, test])
        np.testing.assert_array_equal(images[:, ::4, ::4, 0], scans.images[rows] * 255 // 16)
    large = task.train.images.reshape(-1, 8, 4, 8, 4)
    np.testing.assert_array_equal(large, np.broadcast_to(large[:, :, :1, :, :1], large.shape))
    assert task.image_shape == (32, 32, 1)


def test_the_digest_of_the_first_task_is_the_same_everywhere() -> None:
    (task,) = digits([[0, 1]])
    assert task.digest == "8d15445c2149a2d2ff2e8aa684787cc0de8c3bc4768e4c90a7ecfa0a1ac37b6b"
    (held,) = digits([[0, 1]], validation=0.1)
    assert held.digest == "1a2415ddb644f6a4671846e510f8054cd805ab50511bd01eec387b9553686fe5"


def test_labels_are_positions_in_the_list_of_classes() -> None:
    forth, back = digits([[3, 7]])[0], digits([[7, 3]])[0]
    assert (forth.classes, back.classes) == (("3", "7"), ("7", "3"))
    np.testing.assert_array_equal(forth.train.labels, 1 - back.train.labels)
    np.testing.assert_array_equal(forth.train.images, back.train.images)
    assert forth.digest != back.digest


def test_tasks_may_share_classes_and_differ_in_size() -> None:
    stream = digits([[0, 1], [1, 2, 3], [4], [0, 1]])
    assert [task.name for task in stream] == ["0, 1", "1, 2, 3", "4", "0, 1 (2)"]
    assert stream[0].digest == stream[3].digest
    assert [len(task.classes) for task in stream] == [2, 3, 1, 2]


def test_a_longer_stream_begins_with_the_shorter() -> None:
    tasks = [[0, 1], [2, 3], [0, 1]]
    short, long = digits(tasks[:2], validation=0.2), digits(tasks, validation=0.2)
    assert [(a.name, a.digest) for a in short] == [(b.name, b.digest) for b in long[:2]]


def test_a_seed_decides_the_order_in_which_the_same_tasks_arrive() -> None:
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1]]
    given = [(task.name, task.digest) for task in digits(pairs)]
    orders = []
    for seed in range(3):
        config = BenchmarkConfig(dataset="digits", tasks=pairs, order_seed=seed)
        arrived = [(task.name, task.digest) for task in load_stream(config)]
        assert sorted(arrived) == sorted(given)
        orders.append([given.index(task) for task in arrived])
    assert orders == [[1, 2, 4, 3, 0], [3, 0, 1, 4, 2], [2, 3, 1, 4, 0]]


def test_arrays_are_what_a_task_promises() -> None:
    for validation in (0.0, 0.3):
        for _, part in digits([[5, 6]], validation=validation)[0].parts():
            assert part.images.dtype == np.uint8
            assert part.images.flags.c_contiguous
            assert part.labels.dtype == np.int64
            assert part.images.shape == (len(part), 32, 32, 1)


def test_without_validation_the_part_is_empty() -> None:
    (task,) = digits([[0, 1]])
    assert task.validation.images.shape == (0, 32, 32, 1)
    assert task.validation.labels.shape == (0,)


@settings(max_examples=20, deadline=None)
@given(share=st.floats(min_value=0.001, max_value=0.999))
def test_validation_is_a_share_of_each_class(share: float) -> None:
    (whole,) = digits([[0, 1]])
    (task,) = digits([[0, 1]], validation=share)
    for label in (0, 1):
        samples = np.sum(whole.train.labels == label)
        held = np.sum(task.validation.labels == label)
        assert held == max(math.floor(Decimal(str(share)) * int(samples)), 1)
        assert np.sum(task.train.labels == label) == samples - held


def test_shares_are_decimal_numbers(tmp_path: Path) -> None:
    dataset = few_samples(tmp_path, [0] * 100, [0])
    (task,) = load_stream(BenchmarkConfig(dataset=dataset, tasks=[[0]], validation=0.29))
    assert len(task.validation) == 29


def test_validation_and_training_samples_are_apart_and_in_order(tmp_path: Path) -> None:
    dataset = few_samples(tmp_path, [0, 1, 2] * 30, [0, 1, 2])
    config = BenchmarkConfig(dataset=dataset, tasks=[[2, 0], [0, 1]], validation=0.3)
    first, second = load_stream(config)
    train, held = first.train.images[:, 0, 0, 0], first.validation.images[:, 0, 0, 0]
    assert sorted([*train, *held]) == [row for row in range(90) if row % 3 != 1]
    assert (np.diff(train.astype(int)) > 0).all()
    assert (np.diff(held.astype(int)) > 0).all()
    # A class keeps its validation samples wherever it is used: none is ever trained on.
    zeros = held[first.validation.labels == 1]
    np.testing.assert_array_equal(
        zeros, second.validation.images[second.validation.labels == 0][:, 0, 0, 0]
    )
    # Chosen at random, class by class: neither the first rows, nor alike in all classes.
    assert set(zeros) != set(range(0, 27, 3))
    assert set(zeros // 3) != set(held[first.validation.labels == 0] // 3)


def test_the_smallest_class_that_can_be_split(tmp_path: Path) -> None:
    dataset = few_samples(tmp_path, [0, 0, 1], [0, 1])
    config = BenchmarkConfig(dataset=dataset, tasks=[[0]], validation=0.01)
    (task,) = load_stream(config)
    assert (len(task.train), len(task.validation)) == (1, 1)
    with pytest.raises(UserError, match=r"benchmark.validation = 0.01: class 1 .* cannot be split"):
        load_stream(BenchmarkConfig(dataset=dataset, tasks=[[0], [1]], validation=0.01))


@pytest.mark.parametrize("label", [10, 10**6])
def test_an_unknown_class(label: int) -> None:
    with pytest.raises(
        UserError, match=f"benchmark.tasks: task 2 names class {label}, but digits .* 0 to 9"
    ):
        digits([[0, 1], [2, label]])


@pytest.mark.parametrize("label", [1, 7, 8])
def test_a_number_that_may_stand_for_a_name(label: int) -> None:
    names = ["01", "cat", "007", "010", *map(str, range(4, 9))]  # without quotes: 1, 7 and 8
    source = arrays_source(
        train=(np.zeros((18, 4, 4, 1), np.uint8), np.arange(18) % 9), class_names=names
    )

    def stream(labels: list[int | str]) -> list[Task]:
        return load_stream(BenchmarkConfig(dataset="arrays", tasks=[labels]), source)

    name = {1: "'01'", 7: "'007'", 8: "'010'"}[label]
    with pytest.raises(UserError, match=f"task 1 names class {label}, and .* {name}, .* in quotes"):
        stream([label])
    assert stream(["01", 4])[0].classes == ("01", "4")


def test_a_class_without_samples(tmp_path: Path) -> None:
    dataset = few_samples(tmp_path, [0, 2], [0, 1])
    with pytest.raises(UserError, match=r"task 1 names class 2 .* has no test samples"):
        load_stream(BenchmarkConfig(dataset=dataset, tasks=[[0, 2]]))
    with pytest.raises(UserError, match=r"task 1 names class 1 .* has no training samples"):
        load_stream(BenchmarkConfig(dataset=dataset, tasks=[[1]]))


@pytest.mark.parametrize("name", ["digit", "", " ", "imagenet", "digits:x", "idx", "x" * 10_000])
def test_an_unknown_data_set(name: str) -> None:
    config = BenchmarkConfig.model_construct(dataset=name, tasks=[[0]], data_dir="data")
    with pytest.raises(
        UserError,
        match=r"no such data set; allowed are digits, .*folder:PATH, npz:PATH, .*idx:PATH",
    ) as error:
        load_stream(config)
    assert str(error.value).startswith("benchmark.dataset = ")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "the path is empty"),
        (" ", "the path is empty"),
        ("/no/such/folder", "no such folder"),
        ("~/no/such/folder", "no such folder"),
        ("~nobody-of-this-name/x", "home directory"),
        ("nul\0", "no such folder"),
        ("x" * 5000, "File name too long"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "idx", "folder"])
def test_a_path_that_leads_nowhere(kind: str, path: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        load_stream(BenchmarkConfig(dataset=f"{kind}:{path}", tasks=[[0]]))
    assert len(str(error.value)) < 1000


def test_paths_are_relative_to_the_working_directory_or_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_samples(tmp_path / "mine", [0, 1], [0, 1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    relative, home = (
        load_stream(BenchmarkConfig(dataset=dataset, tasks=[[0, 1]]))[0]
        for dataset in ("idx:mine", "idx:~/mine")
    )
    assert relative.digest == home.digest


def test_the_first_samples_of_each_class_may_be_all_that_is_used(tmp_path: Path) -> None:
    dataset = few_samples(tmp_path, train=[0, 1, 1, 0, 1, 0, 1, 0], test=[0, 1, 0])
    config = BenchmarkConfig(dataset=dataset, tasks=[[1, 0]], samples_per_class=3)
    (task,) = load_stream(config)
    assert task.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert task.train.labels.tolist() == [1, 0, 0, 1, 0, 1]
    assert len(task.test) == 3
    (all_of_them,) = load_stream(config.model_copy(update={"samples_per_class": 100}))
    assert len(all_of_them.train) == 8


def test_validation_samples_are_taken_from_those_that_are_used(tmp_path: Path) -> None:
    dataset = few_samples(tmp_path, train=[0] * 20 + [1] * 20, test=[0, 1])
    (task,) = load_stream(
        BenchmarkConfig(dataset=dataset, tasks=[[0, 1]], samples_per_class=10, validation=0.3)
    )
    assert (len(task.train), len(task.validation)) == (14, 6)
    rows = np.concatenate([p.images[:, 0, 0, 0] for p in (task.train, task.validation)])
    assert sorted(rows.tolist()) == [*range(10), *range(20, 30)]
