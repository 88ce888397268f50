"""zoo_ray: grow a Model Zoo, an ensemble that learns a stream of tasks, on Ray.

*Model Zoo: A Growing "Brain" That Learns Continually*, Ramesh & Chaudhari, ICLR 2022.

In a notebook: `run = zoo_ray.grow("configs/quickstart.yaml")`, or `run = zoo_ray.open("zoo_store",
"quickstart")`; then `run.metrics`, `run.accuracy`, `run.predict(images=..., task=...)`, and
`zoo_ray.figures(run)["accuracy"]`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "figures", "grow", "open", "read_config"]

_HOMES = {
    "UserError": "zoo_ray.errors",
    "figures": "zoo_ray.notebook",
    "grow": "zoo_ray.notebook",
    "open": "zoo_ray.notebook",
    "read_config": "zoo_ray.config",
}


def __getattr__(name: str) -> Any:
    # On demand: the driver's process imports this package too, and wants none of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
