"""Which past tasks a new member is fitted on: losses, boosting weights, the draw."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from zoo_ray.keys import unit_intervals
from zoo_ray.task import Labels

Floats = npt.NDArray[np.float64]


def log_loss(probabilities: npt.NDArray[np.floating], labels: Labels) -> float:
    """Mean negative log likelihood, probabilities clipped at 1e-12 from below.

    Args:
        probabilities: shape (samples, classes).
        labels: int64, shape (samples,), positions of the true classes.
    """
    return mean_log_loss(probabilities[np.arange(len(labels)), labels])


def mean_log_loss(likelihood: npt.NDArray[np.floating]) -> float:
    """`log_loss` from the probabilities of the true classes, shape (samples,)."""
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean())


def boosting_weights(losses: Sequence[float] | Floats, *, sharpness: float = 1.0) -> Floats:
    """Weights of the tasks seen: clip(exp(s (loss - mean) / mean), 1e-4, 1e3), or 1 if the mean is
    0; s is the sharpness, 1 in the paper.

    A task that the zoo explains badly, compared with the others, is drawn more often (Ramesh &
    Chaudhari 2022, section 3: the boosting weights of the episode's tasks).

    Args:
        losses: the zoo's log loss on the training part of each task seen, in stream order.
        sharpness: how much the losses matter; 0: not at all.
    """
    losses = np.asarray(losses, dtype=np.float64)
    mean = losses.mean() if len(losses) else 0.0
    if mean == 0:
        return np.ones_like(losses)
    # np.clip of an overflown exponential is right, but not without a warning.
    return np.clip(np.exp(np.minimum(sharpness * ((losses - mean) / mean), 700.0)), 1e-4, 1e3)


def draw_tasks(
    *,
    weights: Sequence[float] | Floats,
    count: int,
    seed: int,
    episode: int,
    index: int,
) -> tuple[int, ...]:
    """Draw tasks without replacement, in proportion to their weights: Gumbel top-k.

    The `count` tasks with the largest log weight + Gumbel noise have exactly the law of successive
    draws without replacement (Yellott 1977; Kool et al. 2019). The noise is a hash of the run's
    seed, the member and the task's position, so the draw is a function of the weights alone.

    Args:
        weights: of the tasks at positions 0, 1, ... of the stream; positive.
        count: how many to draw; all of them if there are fewer.
        seed, episode, index: the run's seed, and the member that the draw is for.

    Returns:
        Positions in stream order.
    """
    if count == 0:
        return ()
    if count >= len(weights):
        return tuple(range(len(weights)))
    scores = np.log(weights) + draw_noise(seed, episode, index, len(weights))
    # Stable: of equal scores, the lower position comes first.
    ranking = np.argsort(-scores, kind="stable")
    return tuple(sorted(ranking[:count].tolist()))


@lru_cache(maxsize=8192)
def draw_noise(seed: int, episode: int, index: int, tasks: int) -> Floats:
    """The Gumbel noise of a member's draw: for each of the first so many tasks."""
    noise = np.array(
        [
            -math.log(-math.log(unit))
            for unit in unit_intervals("draw", seed, episode, index, count=tasks)
        ]
    )
    noise.flags.writeable = False
    return noise
