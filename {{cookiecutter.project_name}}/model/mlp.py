"""A small network for tables."""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import nn

from model.standardize import Standardize, Unstandardize


class MLP(nn.Module):
    """Two hidden layers with dropout; takes features and predicts the target, each in its own unit."""

    def __init__(
        self,
        num_features: PositiveInt = 10,
        hidden: PositiveInt = 64,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ) -> None:
        """Build the network.

        Args:
            num_features: columns that the data has besides the target.
            hidden: width of the hidden layers.
            dropout: share of their values that are left out in a training step.
        """
        super().__init__()
        self.standardize = Standardize(num_features)
        self.hidden = nn.Sequential(
            nn.Linear(num_features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(hidden, 1)
        self.unstandardize = Unstandardize()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Turn features `(n, num_features)` into predictions `(n,)`."""
        outputs = self.head(self.hidden(self.standardize(features)))
        predictions: torch.Tensor = self.unstandardize(outputs.squeeze(1))
        return predictions
