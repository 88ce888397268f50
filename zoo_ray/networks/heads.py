"""A trunk shared by several tasks, with one linear head per task."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import nn


class MultiHead(nn.Module):
    """A trunk and its heads, which may differ in their number of classes.

    The heads are blocks of rows of one linear layer, in order: a batch with samples of several
    tasks takes one product. Heads compute in float32 whatever the trunk's precision.

    Args:
        trunk: maps a batch of images to feature vectors of length `features`.
        features: see there.
        classes: number of classes of each head.
    """

    closed: torch.Tensor

    def __init__(self, *, trunk: nn.Module, features: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.Linear(features, sum(classes))
        ends = list(accumulate(classes))
        self.rows = [slice(end - size, end) for end, size in zip(ends, classes, strict=True)]
        """The rows of the linear layer that belong to each head."""
        closed = torch.full((len(ends), ends[-1]), -torch.inf)
        for head, rows in enumerate(self.rows):
            closed[head, rows] = 0.0
        self.register_buffer("closed", closed, persistent=False)

    def logits(self, features: torch.Tensor, *, heads: torch.Tensor) -> torch.Tensor:
        """Logits of each sample's own head; minus infinity in the rows of all others.

        Args:
            features: the trunk's output, shape (batch, features).
            heads: int64, shape (batch,): each sample's head.
        """
        logits: torch.Tensor = self.heads(features.float())
        return logits + self.closed[heads]

    def head_logits(self, features: torch.Tensor, *, head: int) -> torch.Tensor:
        """Logits of one head for all samples, shape (batch, classes of the head)."""
        rows = self.rows[head]
        return nn.functional.linear(
            features.float(), self.heads.weight[rows], self.heads.bias[rows]
        )
