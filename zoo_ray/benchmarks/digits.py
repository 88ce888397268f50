"""scikit-learn's scans of handwritten digits: real images without a download."""

import numpy as np

from zoo_ray.benchmarks.source import Source, Split


def read_digits() -> Source:
    """1,797 scans, 8x8 values from 0 to 16, as 32x32 grey images: each pixel repeated 4x4.

    The scans have no official split. Their writers follow one another, so the last fifth of each
    class, in stored order, is the test split: other hands than those seen in training.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    small = (scans.images.astype(np.int64) * 255 // 16).astype(np.uint8)
    images = small.repeat(4, axis=1).repeat(4, axis=2)[..., np.newaxis]
    labels = scans.target.astype(np.int64)

    is_test = np.zeros(len(labels), dtype=np.bool_)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        is_test[rows[len(rows) - len(rows) // 5 :]] = True
    return Source(
        class_names=tuple(str(digit) for digit in range(10)),
        train=Split.of_arrays(images[~is_test], labels[~is_test]),
        test=Split.of_arrays(images[is_test], labels[is_test]),
    )
