"""From an address to its files."""

from zoo_ray.address import Address
from zoo_ray.store.files import Files


def open_files(address: Address, *, patience_s: float) -> Files:
    """The files at an address. Nothing is asked or written yet.

    Args:
        address: of the store.
        patience_s: how long each operation is tried again.

    Raises:
        UserError: the environment has credentials that cannot be read.
    """
    # The libraries of object stores are loaded where there is one.
    if address.scheme == "file":
        from zoo_ray.store.local import LocalFiles

        return LocalFiles(address, patience_s=patience_s)
    from zoo_ray.store.objects import ObjectFiles

    return ObjectFiles(address, patience_s=patience_s)
