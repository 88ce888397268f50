"""Data in buckets, fetched once."""

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from zoo_ray.address import CREDENTIALS, parse_address
from zoo_ray.benchmarks.names import printable, shown_path
from zoo_ray.errors import UserError

_OF_ADDRESSES = "%:/?#[]@!$&'()*+,;=~"


def fetch(address: str, *, into: Path) -> Path:
    """A file, or all files of a folder, as they are in a bucket now, on this machine.

    What was fetched before and has not changed is not fetched again.

    Args:
        address: `s3://...` or `gs://...`, see `zoo_ray.address`.
        into: folder for what is fetched.

    Returns:
        Where it is.

    Raises:
        UserError: there is no such thing, or it cannot be read.
    """
    where = parse_address(address, key="benchmark.dataset")
    shown = f"benchmark.dataset = ...{printable(where.shown, limit=200)}"
    import pyarrow.fs as fs  # its libraries of object stores take a while to load

    try:
        filesystem, path = fs.FileSystem.from_uri(quote(address, safe=_OF_ADDRESSES))
        root = filesystem.get_file_info(path)
        if root.type == fs.FileType.NotFound:
            raise UserError(f"{shown}: there is nothing; check the bucket and the prefix")
        is_folder = root.type == fs.FileType.Directory
        within = fs.FileSelector(path, recursive=True)
        found = filesystem.get_file_info(within) if is_folder else [root]
        for info in found:
            if ".." in info.path.split("/"):
                raise UserError(
                    f"{shown}: the file {shown_path(info.path)} would be written outside of the "
                    "folder; take it away"
                )
        # Whatever changes in the bucket is fetched anew, beside what was there.
        state = sorted((info.path, info.size, info.mtime_ns) for info in found)
        key = hashlib.sha256(repr((where.text, state)).encode()).hexdigest()[:16]
        name: str = path.rstrip("/").rpartition("/")[2]
        target = into / "fetched" / key / name
        if target.exists():
            return target
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="part-", dir=target.parent.parent) as scratch:
            copy = Path(scratch) / key
            (copy / name if is_folder else copy).mkdir(parents=True)
            fs.copy_files(path, str(copy / name), filesystem, fs.LocalFileSystem())
            try:
                os.rename(copy, target.parent)
            except OSError:
                if not target.exists():  # another command has fetched it meanwhile
                    raise
        return target
    except OSError as error:
        problem = printable(" ".join(str(error).split()), limit=300)
        raise UserError(
            f"{shown}: cannot be fetched ({problem}); credentials come from "
            f"{CREDENTIALS[where.scheme]} or the machine's role"
        ) from None
