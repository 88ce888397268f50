"""scikit-learn's scans of handwritten digits: real images without a download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo_ray.benchmarks.source import Source, Split
from zoo_ray.errors import UserError


def read_digits() -> Source:
    """1,797 scans, 8x8 values from 0 to 16, as 32x32 grey images: each pixel repeated 4x4.

    The scans have no official split. Their writers follow one another, so the last fifth of each
    class, in stored order, is the test split: other hands than those seen in training.
    """
    values = _scikit_learns_file()
    small = (values[:, :-1].reshape(-1, 8, 8) * 255 // 16).astype(np.uint8)
    images = small.repeat(4, axis=1).repeat(4, axis=2)[..., np.newaxis]
    labels = values[:, -1]

    is_test = np.zeros(len(labels), dtype=np.bool_)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        is_test[rows[len(rows) - len(rows) // 5 :]] = True
    return Source(
        class_names=tuple(str(digit) for digit in range(10)),
        train=Split.of_arrays(images[~is_test], labels[~is_test]),
        test=Split.of_arrays(images[is_test], labels[is_test]),
    )


def _scikit_learns_file() -> npt.NDArray[np.int64]:
    """A row per scan: its 64 values, then its digit.

    Not by `sklearn.datasets.load_digits`, since importing that takes longer than all else that
    happens before the first fit is asked for.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise UserError("benchmark.dataset = digits: they come with scikit-learn; install that")
    folder = Path(package.submodule_search_locations[0])
    return np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.int64)
