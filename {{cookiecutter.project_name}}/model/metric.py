"""Metrics that are means over samples: functions of output and target that return one value per sample.

They are summed on the device and cost next to nothing. What is not a mean over samples (macro F1, AUROC, R²)
can be named in the config as a class of torchmetrics, for instance `classification.MulticlassF1Score`.
"""

import torch
from pydantic import PositiveInt


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
