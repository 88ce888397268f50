"""Randomness by key: every random choice is a hash of what it is for, never of a stream's state.

A draw or a fit therefore needs no history, and configurations that differ elsewhere share it.
"""

import hashlib
import json


def hash_bits(*key: str | int) -> int:
    """64 bits that depend on the whole key: SHA-256 of its JSON form, first eight bytes."""
    text = json.dumps(key, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def unit_interval(*key: str | int) -> float:
    """A number strictly between 0 and 1: the upper 53 bits of the key's hash, at mid-step."""
    return ((hash_bits(*key) >> 11) + 0.5) * 2.0**-53
