"""Batch normalisation over the batch of all processes, so that it does not depend on how many there are."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.distributed import summed


class _Sum(torch.autograd.Function):
    """The sum over all processes; every one of them adds to its gradient."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return summed(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return summed(gradients[0].clone())


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation whose mean and variance are those of all processes' samples together.

    On the CPU; on GPUs PyTorch's own SyncBatchNorm does the same.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002 - the name is PyTorch's
        """Take any number of dimensions."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Normalise `(n, channels, …)`."""
        if not self.training:
            return super().forward(input)
        others = [0, *range(2, input.ndim)]
        values = input.float()  # of 16 bits, too few would be left of the difference below
        count = values.new_full((1,), input.numel() / input.shape[1])
        sums = torch.cat([values.sum(others), values.square().sum(others), count])
        of_all: torch.Tensor = _Sum.apply(sums)  # type: ignore[no-untyped-call]
        total, squares, count = of_all.split([input.shape[1], input.shape[1], 1])
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        shape = [1, -1] + [1] * (input.ndim - 2)
        output = (values - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        normalised: torch.Tensor = output.to(input.dtype)
        return normalised

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronise_batch_norm(model: nn.Module, device: torch.device, compiled: bool) -> nn.Module:
    """Let every batch normalisation of a model see the whole batch; names and parameters stay.

    Args:
        model: whose batch normalisation is meant.
        device: where it will lie.
        compiled: whether the model will be compiled; these layers are then left out, for their exchange breaks the
            compiled backward pass.
    """
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.__class__ = SharedBatchNorm  # type: ignore[assignment]
        if compiled and isinstance(module, SharedBatchNorm | nn.SyncBatchNorm):
            module.__class__ = _never_compiled(type(module))  # type: ignore[assignment]
    return model


def _never_compiled(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"forward": torch.compiler.disable(kind.forward)})
