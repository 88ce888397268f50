"""Trying what a machine or its GPU may lack."""

import contextlib
import logging
from collections.abc import Iterator

import torch

log = logging.getLogger("zoo_ray")


@contextlib.contextmanager
def may_fail(what: str) -> Iterator[None]:
    """Go on behind the block if it fails, with a warning; being out of memory says nothing of it.

    Args:
        what: as the warning's subject and verb, as `Triton does`.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        said = str(error).splitlines() or [type(error).__name__]
        log.warning("%s not work here (%s): a fit is slower without", what, said[0])
