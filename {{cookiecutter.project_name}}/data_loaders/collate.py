"""Collate functions: from a list of samples to a batch."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

PADDING = -100  # PyTorch's losses leave out targets of this value


def pad_tokens(samples: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a batch for a model that predicts the next token, padded to its longest sequence.

    Args:
        samples: token numbers, each of shape `(length + 1,)` with a `length` of its own, 1 or more.

    Returns:
        Inputs and targets, both `(n, longest length)`. A target is the token that comes next; where a sequence has
        ended, inputs are 0 and targets are -100, which losses and metrics leave out.
    """
    inputs = pad_sequence([sample[:-1] for sample in samples], batch_first=True)
    targets = pad_sequence([sample[1:] for sample in samples], batch_first=True, padding_value=PADDING)
    return inputs, targets
