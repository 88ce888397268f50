"""What this machine computes with: it decides the bits of a fit, and the best precision."""

import os
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


def processor() -> str:
    """The processor's architecture and those of its features that decide a fit's bits."""
    wide = sorted(
        feature
        for feature in processor_features()
        if feature.startswith(("avx", "amx", "fma", "asimd", "sve", "bf16"))
    )
    return " ".join([platform.machine(), *wide])


def hardware(*, device: str, torch_version: str, kernels: str | None = None) -> dict[str, str]:
    """What decides a fit's bits beside its spec, for the member's record.

    Args:
        device: the GPU's model and cuDNN's version, or the processor and how torch uses it.
        torch_version: of the torch that fitted.
        kernels: what compiled those of ours, on a GPU.
    """
    # These make oneDNN, hence convolutions, use less of the processor than it has.
    limits = {key: os.environ[key] for key in ("ONEDNN_MAX_CPU_ISA",) if key in os.environ}
    compiled = {} if kernels is None else {"kernels": kernels}
    return {"device": device, "torch": torch_version} | compiled | limits
