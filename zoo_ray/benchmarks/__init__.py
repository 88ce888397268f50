"""Images and labels -> an ordered stream of tasks."""

from zoo_ray.benchmarks.arrays import arrays_source
from zoo_ray.benchmarks.source import Source
from zoo_ray.benchmarks.stream import load_stream

__all__ = ["Source", "arrays_source", "load_stream"]
