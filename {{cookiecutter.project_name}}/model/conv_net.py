"""A small convolutional network for images."""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import nn


class ConvNet(nn.Module):
    """Two stages of convolution, normalisation and pooling, to 4×4 in the end, and a head of two linear layers."""

    def __init__(
        self,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 1,
        channels: PositiveInt = 32,
        hidden: PositiveInt = 64,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25,
    ) -> None:
        """Build the network.

        Args:
            num_classes: classes to tell apart.
            in_channels: channels of an image: 1 for grey, 3 for colour.
            channels: feature maps of the first stage; the second has twice as many.
            hidden: width of the head's first layer.
            dropout: share of that layer's values that are left out in a training step.
        """
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(4)  # images of any size come out as 4×4
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * channels * 4 * 4, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images `(n, in_channels, height, width)` into class scores (logits) `(n, num_classes)`."""
        features = self.features(images)
        if features.shape[2:] != (4, 4):  # to pool them from 4×4 to 4×4 would take a quarter of a training step
            features = self.pool(features)
        scores: torch.Tensor = self.head(features)
        return scores
