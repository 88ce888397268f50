import numpy as np
import pytest
import torch

from zoo_ray.members.augment import (
    PAD,
    Shifts,
    crop_and_flip,
    epoch_order,
    epoch_shifts,
    normalise,
)


def shifts(**changes):
    return epoch_shifts(**{"seed": 1, "epoch": 0, "samples": 5000, "flip": True} | changes)


def test_first_choices_are_the_same_for_ever():
    assert epoch_order(seed=1, epoch=0, samples=8).tolist() == [3, 5, 2, 7, 0, 6, 1, 4]
    first = shifts(samples=8)
    assert first.top.tolist() == [3, 2, 6, 0, 8, 4, 3, 7]
    assert first.left.tolist() == [3, 5, 4, 7, 3, 7, 0, 3]
    assert first.flip.tolist() == [False, True, True, True, False, False, True, True]


@pytest.mark.parametrize("samples", [0, 1, 2, 1000])
def test_an_epoch_visits_every_sample_once(samples):
    order = epoch_order(seed=3, epoch=2, samples=samples)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(samples))


def test_choices_depend_on_seed_and_epoch_and_on_no_history():
    orders = [
        epoch_order(seed=s, epoch=e, samples=50).tolist() for s, e in ((1, 0), (1, 1), (2, 0))
    ]
    assert len({tuple(order) for order in orders}) == 3
    later = shifts(epoch=7)
    shifts(epoch=6)
    assert all(torch.equal(one, two) for one, two in zip(later, shifts(epoch=7), strict=True))
    assert not torch.equal(shifts(epoch=6).top, later.top)


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_any_64_bit_seed_will_do(seed):
    assert len(epoch_order(seed=seed, epoch=0, samples=4)) == 4


def test_offsets_cover_0_to_8_evenly_and_independently():
    pairs = np.stack([shifts(samples=20_000).top.numpy(), shifts(samples=20_000).left.numpy()])
    counts = np.histogram2d(*pairs, bins=2 * [np.arange(-0.5, 9)])[0]
    assert counts.sum() == 20_000  # none falls outside
    expected = 20_000 / 81
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_half_of_the_images_are_flipped_if_asked_for():
    assert abs(shifts().flip.float().mean() - 0.5) < 5 * 0.5 / 5000**0.5
    assert not shifts(flip=False).flip.any()
    assert torch.equal(shifts().top, shifts(flip=False).top)


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (6, 9, 3)])
def test_crop_and_flip_is_image_by_image_what_its_name_says(height, width, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, height, width, channels), dtype=np.uint8)
    padded = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    samples = rng.permutation(40)
    choice = shifts(samples=40)
    result = crop_and_flip(torch.from_numpy(padded), torch.from_numpy(samples), choice).numpy()
    for place, (top, left, flip) in enumerate(zip(*(c.tolist() for c in choice), strict=True)):
        crop = padded[samples[place], top : top + height, left : left + width]
        np.testing.assert_array_equal(result[place], crop[:, ::-1] if flip else crop)


def test_the_middle_crop_is_the_image():
    image = torch.arange(28 * 28, dtype=torch.uint8).reshape(1, 28, 28, 1)
    padded = torch.nn.functional.pad(image, (0, 0, PAD, PAD, PAD, PAD))
    middle = Shifts(torch.tensor([PAD]), torch.tensor([PAD]), torch.tensor([False]))
    cropped = crop_and_flip(padded, torch.tensor([0]), middle)
    assert torch.equal(cropped, image)
    assert cropped.is_contiguous()


def test_normalise_moves_channels_first_and_scales():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    result = normalise(images)
    assert result.shape == (1, 3, 1, 1)
    expected = (torch.tensor([0, 51, 255]) / 255 - 0.5) / 0.25
    torch.testing.assert_close(result.flatten(), expected)
    assert images.flatten().tolist() == [0, 51, 255]


def test_normalise_rounds_to_another_precision_only_at_the_end():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(normalise(images, torch.bfloat16), normalise(images).bfloat16())
