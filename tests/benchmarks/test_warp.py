"""What benchmarks do to images and labels, against the published code's libraries."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as torchvisions

from zoo_ray.benchmarks import load_stream
from zoo_ray.benchmarks.warp import noisy, permutation, permute, rotate
from zoo_ray.config import BenchmarkConfig


def images(height=28, width=28, channels=1, samples=5):
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (samples, height, width, channels), dtype=np.uint8)


def turned_by_torchvision(of, degrees):
    tensor = torch.from_numpy(of).permute(0, 3, 1, 2)
    return torchvisions.rotate(tensor, degrees).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("degrees", [10, 20, 30, 40, 100, 190, -17.5, 360])
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (7, 12, 3)])
def test_a_rotation_is_torchvisions(degrees, shape):
    some = images(*shape)
    np.testing.assert_array_equal(
        rotate(some, degrees=degrees), turned_by_torchvision(some, degrees)
    )


def test_a_quarter_turn_is_anticlockwise():
    some = images(samples=2)
    np.testing.assert_array_equal(rotate(some, degrees=90), np.rot90(some, axes=(1, 2)))


def test_a_permutation_is_numpys():
    # The first pixels of the second task of the published permuted MNIST.
    assert permutation(784, number=1)[:5].tolist() == [294, 212, 192, 199, 442]
    some = images(samples=3)
    np.testing.assert_array_equal(permute(some, number=0), some)
    moved = permute(some, number=1)
    order = np.random.default_rng(1000).permutation(784)
    np.testing.assert_array_equal(moved.reshape(3, 784), some.reshape(3, 784)[:, order])


def test_a_permutation_moves_whole_pixels():
    some = images(4, 6, 3)
    moved = permute(some, number=7)
    assert moved.flags.c_contiguous
    before, after = ({tuple(p) for p in of[0].reshape(-1, 3)} for of in (some, moved))
    assert before == after


def test_noise_replaces_a_share_of_the_labels_by_any_class():
    labels = np.zeros(30_000, dtype=np.int64)
    changed = noisy(labels, classes=3, share=0.3, seed=0, task=0)
    counts = np.bincount(changed, minlength=3) / len(labels)
    np.testing.assert_allclose(counts, [0.8, 0.1, 0.1], atol=0.01)
    assert noisy(labels, classes=3, share=0, seed=0, task=0) is labels
    others = [(1, 0), (0, 1)]
    for seed, task in others:
        assert (noisy(labels, classes=3, share=0.3, seed=seed, task=task) != changed).any()
    again = noisy(labels, classes=3, share=0.3, seed=0, task=0)
    np.testing.assert_array_equal(again, changed)
    # Another number here is another benchmark.
    few = noisy(np.zeros(12, dtype=np.int64), classes=4, share=1, seed=3, task=2)
    assert few.tolist() == [1, 3, 0, 3, 3, 3, 0, 3, 3, 3, 2, 3]


def digits(**keys):
    return load_stream(BenchmarkConfig(dataset="digits", tasks=[[0, 1]] * 3, **keys))


def test_every_part_is_warped_and_only_training_labels_are_noisy():
    plain = digits(validation=0.2)[0]
    keys = {"rotate": [0, 30, 0], "permute": [0, 0, 2], "label_noise": 0.5}
    same, turned, mixed = digits(validation=0.2, **keys)
    assert [task.name for task in (same, turned, mixed)] == [
        *("0, 1", "0, 1 turned 30°", "0, 1 permuted 2")
    ]
    for name, part in plain.parts():
        as_is, turned_part, mixed_part = (
            dict(task.parts())[name] for task in (same, turned, mixed)
        )
        np.testing.assert_array_equal(as_is.images, part.images)
        np.testing.assert_array_equal(turned_part.images, rotate(part.images, degrees=30))
        np.testing.assert_array_equal(mixed_part.images, permute(part.images, number=2))
        for noisy_part in (as_is, turned_part, mixed_part):
            changed = (noisy_part.labels != part.labels).mean()
            assert 0.1 < changed < 0.4 if name == "train" else changed == 0
    assert digits(validation=0.2, label_noise=0.5, noise_seed=1)[0].digest != same.digest


def test_a_longer_stream_begins_with_the_shorter():
    short = load_stream(BenchmarkConfig(dataset="digits", tasks=[[0, 1]], label_noise=0.5))
    assert short[0].digest == digits(label_noise=0.5)[0].digest
