"""Images and labels -> an ordered stream of tasks."""

from zoo_ray.benchmarks.stream import load_stream

__all__ = ["load_stream"]
