"""Randomness by key: every random choice is a hash of what it is for, never of a stream's state.

A draw or a fit therefore needs no history, and configurations that differ elsewhere share it.
"""

import hashlib
import json


def hash_bits(*key: str | int) -> int:
    """64 bits that depend on the whole key: SHA-256 of its JSON form, first eight bytes."""
    return _bits(_hash_of(_json(key)))


def unit_interval(*key: str | int) -> float:
    """A number strictly between 0 and 1: the upper 53 bits of the key's hash, at mid-step."""
    return _unit(hash_bits(*key))


def unit_intervals(*key: str | int, count: int) -> list[float]:
    """`unit_interval` of the key with 0, 1, ... as its last part; faster than one by one."""
    begun = _hash_of(_json(key)[:-1])
    numbers = []
    for last in range(count):
        whole = begun.copy()
        whole.update(b",%d]" % last)
        numbers.append(_unit(_bits(whole)))
    return numbers


def _json(key: tuple[str | int, ...]) -> str:
    return json.dumps(key, separators=(",", ":"))


def _hash_of(text: str) -> "hashlib._Hash":
    return hashlib.sha256(text.encode())


def _bits(state: "hashlib._Hash") -> int:
    return int.from_bytes(state.digest()[:8], "big")


def _unit(bits: int) -> float:
    return ((bits >> 11) + 0.5) * 2.0**-53
