"""Encoded images (JPEG, PNG ...) -> one array. Pillow decodes, in as many threads as CPUs."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np

from zoo_ray.benchmarks.names import printable
from zoo_ray.errors import UserError
from zoo_ray.task import Images

if TYPE_CHECKING:
    from PIL import Image

Mode = Literal["L", "RGB"]
Where = Callable[[int], str]
"""What errors call the image at a position: its file and row."""

# What Pillow may try. Its other decoders are for formats that no data set of images uses, and one
# of them (EPS) runs a program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_GREY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"})
# Images that a thread decodes at a time: few enough to keep all threads busy to the end.
_CHUNK = 256


def common_mode(encoded: Iterable[bytes], *, where: Where) -> Mode:
    """`L` if every image is grey, else `RGB`. Among colour images the first tells.

    Raises:
        UserError: an image cannot be opened, or is neither 8-bit grey nor 8-bit colour.
    """
    for position, content in enumerate(encoded):
        with _opened(content, position, where) as image:
            if image.mode not in _GREY:
                return "RGB"
    return "L"


def decode(
    count: int,
    *,
    read: Callable[[int], bytes],
    mode: Mode,
    size: tuple[int, int] | None,
    where: Where,
    scale: bool = True,
    others: str = "all training images",
    remedy: str = "bring all images to one size, as benchmark.image_size does",
) -> Images:
    """Decode images of one size, or scale them to one.

    Args:
        count: number of images, at least one.
        read: the bytes of the file of the image at a position; called in threads.
        mode: `L` gives 1 channel and refuses colour images; `RGB` gives 3.
        size: height and width to which `fit` brings them; None: those of the first image.
        where: names an image in errors.
        scale: whether it does; else they must have the size.
        others: what is grey where a colour image is refused.
        remedy: of another size.

    Returns:
        uint8, shape (images, height, width, channels), C-contiguous.

    Raises:
        UserError: an image cannot be decoded, or does not fit.
    """
    if size is None:
        with _opened(read(0), 0, where) as first:
            width, height = first.size
        scale = False
    else:
        height, width = size
    images = _room((count, height, width, len(mode)), where(0))

    def decode_one(position: int) -> None:
        with _opened(read(position), position, where) as image:
            if mode == "L" and image.mode not in _GREY:
                raise UserError(
                    f"{where(position)}: a colour image ({image.mode}), while {others} are grey; "
                    "make all of them grey or colour"
                )
            if not scale and image.size != (width, height):
                raise UserError(
                    f"{where(position)}: an image of {image.width}x{image.height} pixels, where "
                    f"{width}x{height} are expected; {remedy}"
                )
            pixels = image if image.mode == mode else image.convert(mode)
            images[position] = _pixels(_fitted(pixels, width, height))

    _for_each(count, decode_one)
    return images


def fit(images: Images, *, size: tuple[int, int] | None) -> Images:
    """Images scaled to cover a size, and cut to it at their centre.

    Bilinear over all pixels that a new one covers, as `torchvision.transforms.Resize` does by
    default: unlike bicubic it gives no value brighter or darker than those around it.

    Args:
        images: uint8, shape (samples, height, width, channels).
        size: height and width; None: leaves the images.

    Raises:
        UserError: they do not fit in memory.
    """
    if size is None or images.shape[1:3] == size:
        return images
    from PIL import Image

    height, width = size
    fitted = _room((len(images), height, width, images.shape[3]), "benchmark.image_size")

    def fit_one(position: int) -> None:
        pixels = images[position]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        fitted[position] = _pixels(_fitted(image, width, height))

    _for_each(len(images), fit_one)
    return fitted


def _fitted(image: "Image.Image", width: int, height: int) -> "Image.Image":
    from PIL import Image, ImageOps

    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)


def _room(shape: tuple[int, int, int, int], where: str) -> Images:
    try:
        return np.empty(shape, dtype=np.uint8)
    except (MemoryError, ValueError):
        raise UserError(
            f"{where}: {shape[0]} images of {shape[2]}x{shape[1]} pixels do not fit in memory; "
            "make them smaller (benchmark.image_size), or choose fewer classes"
        ) from None


def _pixels(image: "Image.Image") -> Images:
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(image.height, image.width, -1)


def _for_each(count: int, work: Callable[[int], None]) -> None:
    """Do the work of each position, in threads: Pillow lets go of the interpreter meanwhile."""

    def chunk(start: int) -> None:
        for position in range(start, min(start + _CHUNK, count)):
            work(position)

    # map() raises the first chunk's error first, so that the same file always gives the same
    # message.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(chunk, range(0, count, _CHUNK)):
            pass


@contextmanager
def _opened(content: bytes, position: int, where: Where) -> "Iterator[Image.Image]":
    """An image; what goes wrong with it from here on is an error that names it."""
    from PIL import Image

    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            if image.mode not in _GREY | _COLOUR:
                raise UserError(
                    f"{where(position)}: an image of mode {image.mode}; allowed are 8-bit grey "
                    "and colour images; convert it"
                )
            yield image
    except UserError:
        raise
    except Exception as error:  # a damaged image can make a decoder raise anything
        # Pillow's own message for bytes that are no image shows the buffer's address.
        why = "no known format" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        raise UserError(
            f"{where(position)}: the image cannot be decoded ({printable(why, limit=120)}); fetch "
            "it again, or take it out of the data set"
        ) from None
