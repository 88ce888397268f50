import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from zoo_ray.benchmarks.unpickle import load_pickle
from zoo_ray.errors import UserError

# What Python 2 and numpy 1 wrote for {'data': array([[0, 1, 2], [3, 4, 5]], uint8), 'n': 7}.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
    b"K\x00\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02K\x03\x86q\tcnumpy\ndtype\nq\nU\x02u1q\x0b"
    b"K\x00K\x01\x87q\x0cRq\r(K\x03U\x01|q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0fb"
    b"\x89U\x06\x00\x01\x02\x03\x04\x05q\x10tq\x11bU\x01nK\x07u."
)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "batch"
    path.write_bytes(content)
    return path


def test_python_2_batches_are_read(tmp_path: Path) -> None:
    batch = load_pickle(written(tmp_path, PYTHON_2))
    assert batch.keys() == {b"data", b"n"}
    assert batch[b"n"] == 7
    assert batch[b"data"].dtype == np.uint8
    np.testing.assert_array_equal(batch[b"data"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", ">i4", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(
    tmp_path: Path, protocol: int, dtype: str, order: str
) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)  # type: ignore[call-overload]
    content = {b"data": array, "names": ["a", ("b", 1.5, None, True)], "empty": array[:0]}
    back = load_pickle(written(tmp_path, pickle.dumps(content, protocol=protocol)))
    np.testing.assert_array_equal(back[b"data"], array)
    # Numpy gives arrays of foreign byte order back in the machine's own.
    assert back[b"data"].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert back["empty"].shape == (0, 3, 4)
    assert back["names"] == content["names"]


class _Runs:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._call


HOSTILE = {
    "os.system": b"\x80\x02cos\nsystem\nX\x0b\x00\x00\x00touch PWNED\x85R.",
    "posix.system": b"cposix\nsystem\n(S'touch PWNED'\ntR.",
    "eval": pickle.dumps(_Runs(eval, "open('PWNED', 'w')"), protocol=2),
    "exec": pickle.dumps(_Runs(exec, "open('PWNED', 'w')"), protocol=4),
    "getattr": pickle.dumps(_Runs(getattr, "", "join")),
    "nested getattr": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    "nested in an allowed module": b"\x80\x04\x8c\x05numpy\x8c\x0dload.__call__\x93.",
    "numpy.load": b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00x\x85R.",
    "numpy testing": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n(dtR.",
    "instance": b"(S'touch PWNED'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch PWNED'\no.",
    "new object": b"\x80\x02csubprocess\nPopen\nX\x01\x00\x00\x00x\x85\x81.",
    "object itself": pickle.dumps(_Runs(object)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_nothing_but_arrays_and_containers_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"batch: this pickle asks for .*only numpy arrays"):
        load_pickle(written(tmp_path, content))
    assert not (tmp_path / "PWNED").exists()


def test_the_refused_name_is_shown_but_bounded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks for os\.system;"):
        load_pickle(written(tmp_path, b"cos\nsystem\n."))
    with pytest.raises(UserError) as caught:
        load_pickle(written(tmp_path, b"cos\n" + b"x" * 10_000 + b"\n."))
    assert len(str(caught.value)) < 600


def _replaced(old: bytes, new: bytes) -> bytes:
    assert PYTHON_2.count(old) == 1
    return PYTHON_2.replace(old, new)


# Calls `name` of `module` with `arguments` (pickled, a tuple).
def _call(module: str, name: str, arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + arguments + b"R."


DAMAGED = {
    "empty": b"",
    "text": b"<html>404</html>",
    "cut off": PYTHON_2[:-20],
    "object array": pickle.dumps(np.array([1, None], dtype=object), protocol=2),
    "record array": pickle.dumps(np.zeros(2, dtype=[("a", "O")]), protocol=2),
    "text array": pickle.dumps(np.array(["a"]), protocol=2),
    "dtype that turns into objects": _replaced(b"U\x02u1", b"U\x02O8"),
    "shape larger than the content": _replaced(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86"),
    "negative shape": _replaced(b"K\x02K\x03\x86", b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86"),
    "list for content": _replaced(b"U\x06\x00\x01\x02\x03\x04\x05", b"]"),
    "number for a dtype": _replaced(b"b\x89U", b"b0K\x01\x89U"),
    "terabytes from a number": _call(
        "numpy.core.numeric", "_frombuffer", b"(\x8a\x06" + b"\x7f" * 6 + b"NNNt"
    ),
    "other codec": _call("_codecs", "encode", b"(X\x01\x00\x00\x00aX\x03\x00\x00\x00zipt"),
    "huge memo": b"Nr" + struct.pack("<I", 2**31 - 1) + b".",
    "huge memo as text": b"Np2147483647\n.",
    "terabytes of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**45) + b".",
    "terabytes of bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**45) + b".",
    "marker as class": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "marker called": _call("numpy", "ndarray", b"(\x8a\x06" + b"\x7f" * 6 + b"t"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="batch: not a readable pickle") as caught:
        load_pickle(written(tmp_path, content))
    assert len(str(caught.value)) < 500


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch: .*No such file"):
        load_pickle(tmp_path / "batch")


def test_every_cut_is_one_line(tmp_path: Path) -> None:
    for length in range(len(PYTHON_2)):
        with pytest.raises(UserError):
            load_pickle(written(tmp_path, PYTHON_2[:length]))


def test_no_changed_byte_gets_past(tmp_path: Path) -> None:
    """Any single byte changed: plain data or one line, never another exception."""
    for position in range(len(PYTHON_2)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            changed = bytearray(PYTHON_2)
            changed[position] ^= flip
            try:
                load_pickle(written(tmp_path, bytes(changed)))
            except UserError:
                continue
