"""What is kept of a fit that failed."""

import traceback
from typing import NamedTuple

from zoo_ray.errors import UserError, without_credentials
from zoo_ray.members.member import FitFailed, OutOfMemory
from zoo_ray.store import Store
from zoo_ray.zoo.growth import Wanted


class SpecFailed(UserError):
    """A member cannot be fitted.

    Attributes:
        digest: of its spec.
    """

    def __init__(self, message: str, *, digest: str) -> None:
        super().__init__(message)
        self.digest = digest


class FailedFit(NamedTuple):
    """Why a fit has no result.

    Attributes:
        message: in one line, for whoever started the run.
        log: what whoever looks into it will want to read: a traceback, a worker's last words;
            empty if the message says it all.
        out_of_memory: whether that was the reason.
    """

    message: str
    log: str = ""
    out_of_memory: bool = False

    @staticmethod
    def of(error: Exception) -> "FailedFit":
        """What an exception says, out of a fit or out of the publication of its member."""
        if isinstance(error, UserError):
            return FailedFit(str(error))
        known = isinstance(error, FitFailed)
        return FailedFit(
            message=str(error) if known else f"{type(error).__name__}: {error}",
            log="".join(traceback.format_exception(error)),
            out_of_memory=isinstance(error, OutOfMemory),
        )


def record_failure(
    store: Store, *, folder: str, wanted: Wanted, failed: FailedFit, of: str = ""
) -> str:
    """Keep the log of a failed fit with its run, search or comparison.

    Args:
        store: where that is.
        folder: of the run, search or comparison in the store.
        wanted: the member that could not be fitted.
        failed: why.
        of: tells the log's file from those of other zoos.

    Returns:
        The line that ends the run, or trial: what failed, why, and where the log is.
    """
    line = f"{wanted.name}: {failed.message}"
    if not failed.log:
        return line
    text = f"{line}\nspec {wanted.spec.to_dict()}\n\n{failed.log}"
    file = f"failures/{of and f'{of}-'}member-{wanted.slot.episode}-{wanted.slot.index + 1}.log"
    try:
        return f"{line}; see {store.write_file(folder, file, without_credentials(text).encode())}"
    except UserError:  # the store is away: why the fit failed matters more
        return line
