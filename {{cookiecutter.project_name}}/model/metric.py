"""Metrics that are means over samples: functions of output and target that return one value per sample.

They are summed on the device and cost next to nothing. A pair, values and weights, is returned where values do not
all count the same: padding weighs 0, and so do the other classes in the recall of one class. What is not a mean over
samples (macro F1, AUROC, R²) can be named in the config as a class of torchmetrics, for instance
`MulticlassF1Score`.
"""

import math

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from model.loss import token_cross_entropy


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Whether the highest score is the target's.

    Args:
        output: class scores `(n, classes)`.
        target: class numbers `(n,)`.

    Returns:
        True or False per sample, `(n,)`.
    """
    return output.argmax(dim=1) == target


def top_k_accuracy(output: torch.Tensor, target: torch.Tensor, k: PositiveInt = 3) -> torch.Tensor:
    """Whether the target is among the `k` highest scores.

    Args:
        output: class scores `(n, classes)`.
        target: class numbers `(n,)`.
        k: how many scores count; at most the number of classes.

    Returns:
        True or False per sample, `(n,)`.
    """
    return (output.topk(k, dim=1).indices == target[:, None]).any(dim=1)


def class_recall(
    output: torch.Tensor, target: torch.Tensor, label: NonNegativeInt
) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of the samples of one class that are recognised.

    Args:
        output: class scores `(n, classes)`.
        target: class numbers `(n,)`.
        label: the number of the class.

    Returns:
        True or False per sample, and which of the samples are of the class, both `(n,)`.
    """
    return output.argmax(dim=1) == label, target == label


def absolute_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Distance of prediction and target, in the target's unit; both of any same shape."""
    return (output - target).abs()


def token_accuracy(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether the highest score is that of the token that comes next.

    Args:
        output: logits `(n, length, tokens)`.
        target: token numbers `(n, length)`; -100 where there is only padding.

    Returns:
        True or False per position and what it weighs (0 for padding), both `(n, length)`.
    """
    return output.argmax(dim=-1) == target, target != -100


def bits_per_byte(
    output: torch.Tensor, target: torch.Tensor, bytes_per_token: PositiveFloat = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy in bits for each byte of text: comparable between tokenizers, and with file compressors.

    Args:
        output: logits `(n, length, tokens)`.
        target: token numbers `(n, length)`; -100 where there is only padding.
        bytes_per_token: bytes that a token stands for on average; 1 where tokens are bytes.

    Returns:
        One value per position and what it weighs (0 for padding), both `(n, length)`.
    """
    losses, weights = token_cross_entropy(output, target)
    return losses / (math.log(2) * bytes_per_token), weights
