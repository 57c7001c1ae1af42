"""Losses: functions of the model's output and the target that return one value per sample.

The Trainer takes the mean for the gradient, and sums the values themselves for what it reports, so that a
shorter last batch weighs what it should. Where values do not all count the same, as in a padded batch, a function
returns a pair, values and weights. `args` in the config become keyword arguments.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional


def cross_entropy(
    output: torch.Tensor,
    target: torch.Tensor,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> torch.Tensor:
    """Cross entropy of class scores, in nats.

    Args:
        output: logits `(n, classes)`.
        target: class numbers `(n,)`.
        label_smoothing: share of the target's probability spread over all classes (Szegedy et al.,
            "Rethinking the Inception Architecture for Computer Vision", 2015, section 7).

    Returns:
        One value per sample, `(n,)`.
    """
    return functional.cross_entropy(output, target, reduction="none", label_smoothing=label_smoothing)


def token_cross_entropy(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of the scores of tokens, in nats; padding does not count.

    Args:
        output: logits `(n, length, tokens)`.
        target: token numbers `(n, length)`; -100 where there is only padding.

    Returns:
        One value per position and what it weighs (0 for padding), both `(n, length)`.
    """
    losses = functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none", ignore_index=-100)
    return losses.view_as(target), target != -100


class NormalizedMSELoss(nn.Module):
    """Squared error, divided by the variance of the training targets: 0 is perfect, 1 is no better than their mean.

    So a learning rate or a limit for gradients means the same whatever the target's unit is. `target_std` is a buffer
    that a run fills from the statistics of its data; without them it stays 1.
    """

    target_std: torch.Tensor

    def __init__(self) -> None:
        """Start with a standard deviation of 1."""
        super().__init__()
        self.register_buffer("target_std", torch.ones(()))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare predictions and targets of any same shape, in the target's unit; one value for each."""
        if output.shape != target.shape:
            raise ValueError("predictions and targets differ in their shapes")  # they would be broadcast
        return ((output - target) / self.target_std).square()
