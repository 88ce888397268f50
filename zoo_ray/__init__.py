"""zoo_ray: grow a Model Zoo, an ensemble that learns a stream of tasks, on Ray.

*Model Zoo: A Growing "Brain" That Learns Continually*, Ramesh & Chaudhari, ICLR 2022.
"""

__version__ = "0.1.0"
