"""Code of the user's own that a configuration names: found, and told from other versions of it."""

import hashlib
import importlib
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class UnusableCode(ValueError):
    """A user's code is not as it must be; the message says in which way, in one line."""


def is_own(name: str) -> bool:
    """Whether it is the dotted name of a user's own code, and not the name of something here."""
    return "." in name


def is_installed(path: Path) -> bool:
    """Whether it is where packages are installed, or Python's own library is."""
    paths = sysconfig.get_paths()
    roots = {*site.getsitepackages(), *(paths[key] for key in ("purelib", "platlib", "stdlib"))}
    return any(path.is_relative_to(root) for root in roots)


class OwnCode(NamedTuple):
    """What a name stands for, the file that defines it, and what is in the file."""

    found: Any
    file: str | None
    content: bytes

    @property
    def source(self) -> str:
        """The file's SHA-256."""
        return hashlib.sha256(self.content).hexdigest()


def find_own(name: str, *, source: str | None = None) -> OwnCode:
    """What a name stands for.

    Args:
        name: as `package.module.ClassName`.
        source: that the file must have; None: any.

    Raises:
        UnusableCode: there is no such thing, or its file is another.
    """
    module_name, _, last = name.rpartition(".")
    with their_errors(f"importing {module_name}"):
        module, content = _load(module_name)
        code = OwnCode(getattr(module, last, None), module.__file__, content)
    if code.found is None:
        raise UnusableCode(f"{code.file} has no {last}")
    if source not in (None, code.source):
        raise UnusableCode(
            f"the file of {name} is not the one that the run was begun with; give every machine "
            "the same, and begin again after a change"
        )
    return code


def refuse_elsewhere(name: str, found: Any) -> None:
    """Raise UnusableCode if a class or function is defined in another file than its name says."""
    module_name, _, last = name.rpartition(".")
    if found.__module__ != module_name:
        raise UnusableCode(
            f"{last} is defined elsewhere; give {found.__module__}.{found.__qualname__}"
        )


@contextmanager
def their_errors(what: str) -> Iterator[None]:
    """Whatever goes wrong in a user's code, as UnusableCode."""
    try:
        yield
    except UnusableCode:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnusableCode(f"{what}: {said}") from error


@cache
def _load(name: str) -> tuple[ModuleType, bytes]:
    """A module and its file's content, as it was when this process first wanted it: what is loaded
    is not loaded again."""
    imported_before = name in sys.modules
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # its package is there, and asks for another
        found = None
    if found is None or found.origin is None or not found.has_location:
        raise UnusableCode(
            f"there is no module {name} in the working directory or elsewhere on Python's path"
        )
    path = Path(found.origin)
    content = path.read_bytes()
    if not imported_before or is_installed(path) or path.stat().st_mtime < _process_start():
        return importlib.import_module(name), content
    # What a notebook imported may be older than the file.
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module, content


def _process_start() -> float:
    """In seconds since the epoch, or up to a second before."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    lines = Path("/proc/stat").read_text().splitlines()
    boot = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return boot + ticks / os.sysconf("SC_CLK_TCK") - 1
