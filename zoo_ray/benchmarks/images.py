"""Encoded images (JPEG, PNG ...) -> one array. Pillow decodes, in as many threads as CPUs."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def decode(encoded: Sequence[bytes], *, mode: Mode, where: Where) -> Images:
    """Decode images of one size.

    Args:
        encoded: one file's bytes per image, at least one.
        mode: `L` gives 1 channel and refuses colour images; `RGB` gives 3.
        where: names an image in errors.

    Returns:
        uint8, shape (images, height, width, channels), C-contiguous.

    Raises:
        UserError: an image cannot be decoded, or differs from the first in size.
    """
    with _opened(encoded[0], 0, where) as first:
        width, height = first.size
    shape = (len(encoded), height, width, len(mode))
    try:
        images = np.empty(shape, dtype=np.uint8)
    except (MemoryError, ValueError):
        raise UserError(
            f"{where(0)}: {len(encoded)} images of {width}x{height} pixels do not fit in memory; "
            "make them smaller, or choose fewer classes"
        ) from None
    flat = images.reshape(len(encoded), -1)

    def decode_chunk(start: int) -> None:
        for position in range(start, min(start + _CHUNK, len(encoded))):
            with _opened(encoded[position], position, where) as image:
                if image.size != (width, height):
                    raise UserError(
                        f"{where(position)}: an image of {image.width}x{image.height} pixels "
                        f"among images of {width}x{height}; bring all images to one size"
                    )
                if mode == "L" and image.mode not in _GREY:
                    raise UserError(
                        f"{where(position)}: a colour image ({image.mode}), while all training "
                        "images are grey; make all of them grey or colour"
                    )
                pixels = image if image.mode == mode else image.convert(mode)
                flat[position] = np.frombuffer(pixels.tobytes(), dtype=np.uint8)

    # Pillow lets go of the interpreter while it decodes. map() raises the first chunk's error
    # first, so that the same file always gives the same message.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode_chunk, range(0, len(encoded), _CHUNK)):
            pass
    return images


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
            "the file again, or remove the row"
        ) from None
