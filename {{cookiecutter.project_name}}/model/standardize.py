"""From the units of the data to numbers around zero, which networks learn well from, and back."""

import torch
from torch import nn


class Standardize(nn.Module):
    """Gives each feature mean 0 and standard deviation 1, as measured on the training split.

    Both are buffers, so they are saved with the weights. A new run fills them from the statistics of its data
    (`Loaders.statistics`), by their names. A feature that never varied in training comes out as 0, whatever it is.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(self, num_features: int) -> None:
        """Start with mean 0 and standard deviation 1."""
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_std", torch.ones(num_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Turn features `(n, num_features)` in their own units into ones without unit."""
        varies = self.feature_std > 0
        return torch.where(varies, (features - self.feature_mean) / self.feature_std.where(varies, 1), 0)


class Unstandardize(nn.Module):
    """Turns numbers around zero into predictions in the unit of the target; the way back."""

    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(self) -> None:
        """Start with mean 0 and standard deviation 1."""
        super().__init__()
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Turn outputs `(n,)` into predictions `(n,)`."""
        return outputs * self.target_std + self.target_mean
