"""Pickles of numpy arrays in plain containers, read without running what they ask for.

A pickle is a program. This reader runs those that build dict, list, tuple, str, bytes, numbers
and numpy arrays, and no others. Numpy's own `__setstate__` methods trust their input, so stand-ins
take their place: they check a state in full before numpy sees it.
"""

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

from zoo_ray.benchmarks.names import printable
from zoo_ray.errors import UserError

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


def load_pickle(path: Path) -> Any:
    """The content of a pickle of numpy arrays and plain containers.

    Strings written by Python 2 are bytes here.

    Raises:
        UserError: the file cannot be read, or asks for anything else than arrays and containers.
    """
    try:
        content = path.read_bytes()
        _check_memo(content)
        return _Unpickler(content, path=path).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle is a random program: it may raise anything
        why = printable(f"{type(error).__name__}: {error}", limit=120)
        raise UserError(
            f"{path}: not a readable pickle ({why}); delete it and fetch it again"
        ) from None


def value(content: Any, key: str) -> Any:
    """What a pickled dict holds under a key, which is bytes where Python 2 wrote it; None if it
    holds nothing there, or is no dict."""
    return content.get(key.encode(), content.get(key)) if isinstance(content, dict) else None


def text(name: str | bytes, *, instead: int) -> str:
    """A pickled name as it can be shown; the number instead of one of which nothing is left."""
    decoded = name.decode(errors="replace") if isinstance(name, bytes) else name
    return printable(decoded) or str(instead)


def _check_memo(content: bytes) -> None:
    """Refuse a pickle whose memo would not fit: C's unpickler allocates up to the highest slot."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"memo slot {argument}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, *, path: Path) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) in {("__builtin__", "bytes"), ("builtins", "bytes")}:
            return _no_bytes
        if (module, name) == ("numpy", "ndarray"):
            return "numpy.ndarray"  # only ever named to _reconstruct, which has no need of it
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        if name == "_reconstruct" and module in _MULTIARRAY:
            return _reconstruct
        if name == "_frombuffer" and module in _NUMERIC:
            return _frombuffer
        wanted = printable(f"{module}.{name}", limit=120)
        raise UserError(
            f"{self._path}: this pickle asks for {wanted}; only numpy arrays, dict, list, tuple, "
            "str, bytes and numbers are allowed; fetch the file again, from a source you trust"
        )


class _Dtype:
    """Stands in for numpy.dtype: booleans, integers and floats of fixed size, nothing else."""

    __slots__ = ("dtype",)

    def __init__(self, code: str | bytes, *_: Any) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
            raise pickle.UnpicklingError(f"an array of dtype {text!r}, which is no number")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """An array that a pickle fills only with numbers, and only as many as its shape holds."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        shape, numbers = _checked(shape, dtype, content)
        # Numpy's stubs ask for a numpy.bool, which numpy itself refuses.
        super().__setstate__((1, shape, numbers, bool(is_fortran), content))  # type: ignore[arg-type]


def _reconstruct(*_: Any) -> "_Array":
    return np.empty(0, dtype=np.uint8).view(_Array)


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    content = bytes(content) if isinstance(content, bytearray) else content
    shape, numbers = _checked(shape, dtype, content)
    return np.frombuffer(content, dtype=numbers).reshape(shape, order="F" if order == "F" else "C")


def _checked(shape: Any, dtype: Any, content: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if not (isinstance(dtype, _Dtype) and isinstance(content, bytes) and isinstance(shape, tuple)):
        raise pickle.UnpicklingError("an array that is not made of bytes")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape}")
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {shape} in {len(content)} bytes")
    return shape, dtype.dtype


def _no_bytes() -> bytes:
    """Stands in for bytes(), by which Python 3 writes empty bytes in old protocols."""
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for _codecs.encode, by which Python 3 writes bytes in old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("encode is for latin1 alone")
    return text.encode("latin1")
