"""zoo_ray: grow a Model Zoo, an ensemble that learns a stream of tasks, on Ray.

*Model Zoo: A Growing "Brain" That Learns Continually*, Ramesh & Chaudhari, ICLR 2022.

From Python: `run = zoo_ray.grow("configs/quickstart.yaml")`, or `run = zoo_ray.open("zoo_store",
"quickstart")`; then `run.metrics`, `run.accuracy`, `run.predict(images=..., task=...)`,
`run.records()`. `zoo_ray.compare`, `compete` and `tune` do what the commands do, and
`zoo_ray.figures(run)["accuracy"]` and `zoo_ray.page(run)` show what came of any of them.
"""

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "UserError": "zoo_ray.errors",
    "compare": "zoo_ray.notebook",
    "compete": "zoo_ray.notebook",
    "figures": "zoo_ray.notebook",
    "grow": "zoo_ray.notebook",
    "open": "zoo_ray.notebook",
    "open_study": "zoo_ray.notebook",
    "page": "zoo_ray.notebook",
    "read_config": "zoo_ray.config",
    "read_search": "zoo_ray.search.config",
    "tune": "zoo_ray.notebook",
}
__all__ = ["__version__", *_HOMES]


def __dir__() -> list[str]:
    return sorted(__all__)  # what is not imported yet, too


def __getattr__(name: str) -> Any:
    # On demand: the driver's process imports this package too, and wants none of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
