"""Random choices of a fit, by counter, and what they do to a batch of images."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

PAD = 4

_ORDER, _AUGMENT = 0, 1


class Shifts(NamedTuple):
    """How each sample of an epoch is cropped and flipped.

    Attributes:
        top, left: int64, 0 to 2 * PAD: the crop's corner in the padded image.
        flip: bool: whether the crop is mirrored.
    """

    top: torch.Tensor
    left: torch.Tensor
    flip: torch.Tensor

    def of(self, samples: slice) -> "Shifts":
        """Those of some of the samples."""
        return Shifts(*(choice[samples] for choice in self))

    def to(self, device: torch.device) -> "Shifts":
        """The same on a device."""
        return Shifts(*(choice.to(device) for choice in self))


def epoch_order(*, seed: int, epoch: int, samples: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch visits its samples: a permutation that depends on (seed, epoch).

    Made of raw generator output, which numpy keeps the same from version to version, where it
    reserves the right to change `Generator.permutation`.
    """
    raw = _generator(seed, epoch, _ORDER).random_raw(samples)
    return np.argsort(raw, kind="stable").astype(np.int64)


def epoch_shifts(*, seed: int, epoch: int, samples: int, flip: bool) -> Shifts:
    """The crops (and flips, if asked for) of an epoch, for its samples in the order visited."""
    raw = _generator(seed, epoch, _AUGMENT).random_raw(samples)
    corners = np.uint64(2 * PAD + 1)
    flips = (raw >> np.uint64(63)).astype(bool) if flip else np.zeros(samples, dtype=bool)
    return Shifts(
        top=torch.from_numpy((raw % corners).astype(np.int64)),
        left=torch.from_numpy((raw // corners % corners).astype(np.int64)),
        flip=torch.from_numpy(flips),
    )


def crop_and_flip(padded: torch.Tensor, samples: torch.Tensor, shifts: Shifts) -> torch.Tensor:
    """Take samples of a set of images, crop each at its own place, mirror those that are to be.

    Args:
        padded: shape (any, height + 2 * PAD, width + 2 * PAD, channels), contiguous.
        samples: int64, shape (batch,): rows of `padded`.
        shifts: of these samples.

    Returns:
        Shape (batch, height, width, channels), contiguous.
    """
    rows, columns = 2 * PAD + 1, 2 * PAD + 1
    total, padded_height, padded_width, channels = padded.shape
    height, width = padded_height - 2 * PAD, padded_width - 2 * PAD
    image, line, pixel, channel = padded.stride()
    crops = padded.as_strided(
        (total, rows, columns, height, width, channels), (image, line, pixel, line, pixel, channel)
    )[samples, shifts.top, shifts.left]
    return torch.where(shifts.flip[:, None, None, None], crops.flip(2), crops)


def normalise(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 (batch, height, width, channels) to `dtype` (batch, channels, height, width).

    (x / 255 - 0.5) / 0.25, the original's constants, in float32. The result is channels-last in
    memory, as the convolutions like it, and takes no copy to become so.
    """
    return images.permute(0, 3, 1, 2).float().mul_(4 / 255).sub_(2).to(dtype)


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Philox:
    return np.random.Philox(key=seed, counter=[0, 0, epoch, purpose])
