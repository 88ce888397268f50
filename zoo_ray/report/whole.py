"""Files that people ask for: written whole, or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place only once it is whole: on a full disk an earlier one
    stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    place = os.path.realpath(file)  # a link stays one
    aside = os.path.join(os.path.dirname(place), f".{uuid.uuid4().hex}.part")
    try:
        with open(aside, "xb") as written:
            yield written
        os.replace(aside, place)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)
