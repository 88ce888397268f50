import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo_ray.benchmarks import load_stream
from zoo_ray.benchmarks.cifar import CIFAR10_CLASSES, CIFAR10_FILES
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError
from zoo_ray.task import Task

SAMPLES = 20


def batch(number: int) -> dict[bytes, Any]:
    """A batch as CIFAR-10 has them; every pixel differs from its neighbours."""
    data = np.random.default_rng(number).integers(0, 256, (SAMPLES, 3072), dtype=np.uint8)
    labels = [(number + row) % 10 for row in range(SAMPLES)]
    return {b"batch_label": b"batch", b"labels": labels, b"data": data, b"filenames": [b"a.png"]}


def write_cifar10(data_dir: Path) -> Path:
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate(CIFAR10_FILES):
        (folder / name).write_bytes(pickle.dumps(batch(number), protocol=2))
    return folder


def load(data_dir: Path) -> Task:
    config = BenchmarkConfig(dataset="cifar10", tasks=[[3, 9]], data_dir=str(data_dir))
    return load_stream(config)[0]


def test_images_labels_and_order(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    task = load(tmp_path)
    assert task.classes == ("cat", "truck")
    assert len(CIFAR10_CLASSES) == 10

    expected, labels = [], []
    for number in range(5):
        content = batch(number)
        for image, label in zip(content[b"data"], content[b"labels"], strict=True):
            if label in (3, 9):
                red, green, blue = image.reshape(3, 32, 32)
                expected.append(np.stack([red, green, blue], axis=-1))
                labels.append([3, 9].index(label))
    np.testing.assert_array_equal(task.train.images, expected)
    np.testing.assert_array_equal(task.train.labels, labels)
    assert len(task.test) == 4
    for _, part in task.parts():
        assert part.images.flags.c_contiguous


def _changed(**values: Any) -> dict[bytes, Any]:
    return batch(0) | {key.encode(): value for key, value in values.items()}


WRONG: dict[str, tuple[Any, str]] = {
    "no dict": ([1, 2], "its 'data' is no uint8 array"),
    "no data": (_changed(data=None), "its 'data' is no uint8 array"),
    "floats": (_changed(data=np.zeros((20, 3072))), "its 'data' is no uint8 array"),
    "wrong width": (_changed(data=np.zeros((20, 10), np.uint8)), "its 'data' is no uint8 array"),
    "no labels": (_changed(labels=None), "its 'labels' is no list of integers"),
    "NaN label": (_changed(labels=[float("nan")] * 20), "its 'labels' is no list of integers"),
    "true for a label": (_changed(labels=[True] * 20), "its 'labels' is no list of integers"),
    "label too large": (_changed(labels=[10] * 20), "label 10 is not among 0 to 9"),
    "label far too large": (_changed(labels=[10**30] * 20), "is not among 0 to 9"),
    "negative label": (_changed(labels=[-1] * 20), "label -1 is not among 0 to 9"),
    "label missing": (_changed(labels=[1] * 19), "20 images, but 19 labels"),
}


@pytest.mark.parametrize(("content", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_batch_is_refused(tmp_path: Path, content: Any, why: str) -> None:
    path = write_cifar10(tmp_path) / "data_batch_2"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=why) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_hostile_batch_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_cifar10(tmp_path) / "test_batch"
    path.write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")
    with pytest.raises(UserError, match=r"test_batch: this pickle asks for os\.system"):
        load(tmp_path)
    assert not (tmp_path / "PWNED").exists()
