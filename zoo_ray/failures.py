"""What is kept of a fit that failed."""

from zoo_ray.errors import UserError
from zoo_ray.store import Store
from zoo_ray.zoo.growth import Wanted


def record_failure(store: Store, *, run: str, wanted: Wanted, message: str, log: str) -> str:
    """Keep the log of a failed fit in its run's folder.

    Args:
        store: where the run is.
        run: its name.
        wanted: the member that could not be fitted.
        message: why, in one line.
        log: what whoever looks into it will want to read: a traceback, a worker's last words.

    Returns:
        The line that ends the run: what failed, why, and where the log is.
    """
    slot = wanted.slot
    text = f"{wanted.name}\nspec {wanted.spec.to_dict()}\n{message}\n\n{log}"
    line = f"{wanted.name}: {message}"
    try:
        file = f"failures/member-{slot.episode}-{slot.index + 1}.log"
        return f"{line}; see {store.write_file(run, file, text.encode())}"
    except UserError:  # the store is away: why the fit failed matters more
        return line
