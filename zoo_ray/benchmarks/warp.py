"""What a benchmark does to a task's images and labels: rotation, permutation, label noise."""

import numpy as np
import numpy.typing as npt

from zoo_ray.task import Images, Labels

# Keys the generator of label noise. Another number is another benchmark.
_NOISE_KEY = 0x6E6F697365
# Images that are turned at a time: all of their pixels are copied once more meanwhile.
_AT_ONCE = 4096


def rotate(images: Images, *, degrees: float) -> Images:
    """Images turned anticlockwise about their centre, of the same size, black where nothing was.

    Each pixel takes the value of the nearest one, as `torchvision.transforms.functional.rotate`
    does by default, and so the published code.

    Args:
        images: uint8, shape (samples, height, width, channels).
        degrees: how far.
    """
    if degrees % 360 == 0 or len(images) == 0:
        return images
    height, width = images.shape[1:3]
    angle = np.deg2rad(degrees)
    # Where each pixel comes from, with the centre of the image at 0 and y pointing down.
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    column = np.rint(np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2).astype(np.int64)
    row = np.rint(np.sin(angle) * x + np.cos(angle) * y + (height - 1) / 2).astype(np.int64)
    within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    turned = np.zeros_like(images)
    for begin in range(0, len(images), _AT_ONCE):
        batch = slice(begin, begin + _AT_ONCE)
        turned[batch, within] = images[batch, row[within], column[within]]
    return turned


def permute(images: Images, *, number: int) -> Images:
    """Images with their pixels in another order, the same for all.

    Args:
        images: uint8, shape (samples, height, width, channels).
        number: of the order: that of numpy's `default_rng(1000 * number)`, and for 0 the order as
            it is, as in the published code.
    """
    if number == 0:
        return images
    order = permutation(images.shape[1] * images.shape[2], number=number)
    pixels = images.reshape(len(images), len(order), images.shape[3])
    return np.ascontiguousarray(pixels[:, order]).reshape(images.shape)


def permutation(pixels: int, *, number: int) -> npt.NDArray[np.int64]:
    """The pixel that comes to each place; see `permute`."""
    return np.random.default_rng(1000 * number).permutation(pixels)


def noisy(labels: Labels, *, classes: int, share: float, seed: int, task: int) -> Labels:
    """Labels of which about a share are replaced by a class drawn uniformly, the right one
    included.

    Args:
        labels: int64, shape (samples,): positions among the classes.
        classes: how many there are.
        share: of the labels that are drawn anew, from 0 to 1.
        seed: of the noise.
        task: the task's position in `benchmark.tasks`: each has noise of its own.
    """
    if share == 0:
        return labels
    # Raw bits are the same in every numpy; Generator's methods need not be.
    key = np.array([_NOISE_KEY, seed], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=[0, 0, 0, task]).random_raw(2 * len(labels))
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    replaced, drawn = uniform[: len(labels)] < share, uniform[len(labels) :]
    return np.where(replaced, (drawn * classes).astype(np.int64), labels)
