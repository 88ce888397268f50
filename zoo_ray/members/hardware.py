"""What this machine computes with: it decides the bits of a fit, and the best precision."""

import platform
from functools import cache
from pathlib import Path

from zoo_ray.members.spec import Precision


@cache
def processor_features() -> frozenset[str]:
    """The processor's feature flags, as Linux names them; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(flags.partition(":")[2].split())


def resolve_precision(*, gpu: bool) -> Precision:
    """The precision that pays: bfloat16 on GPUs and on processors that multiply in it.

    A rule, not a timing: the same machine always answers the same.
    """
    native = {"avx512_bf16", "amx_bf16"} & processor_features()
    return "bfloat16" if gpu or native else "float32"


def hardware(*, gpu_name: str | None, torch_version: str) -> dict[str, str]:
    """What decides a fit's bits beside its spec, for the member's record."""
    wide = sorted(
        feature
        for feature in processor_features()
        if feature.startswith(("avx", "amx", "fma", "asimd", "sve", "bf16"))
    )
    processor = " ".join([platform.machine(), *wide])
    return {"device": gpu_name or processor, "torch": torch_version}
