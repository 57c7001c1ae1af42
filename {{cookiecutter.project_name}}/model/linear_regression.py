"""Linear regression whose forward and backward pass are written by hand."""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import nn
from torch.autograd.function import FunctionCtx

from model.standardize import Standardize, Unstandardize


class LinearFunction(torch.autograd.Function):
    """`y = X w + b`, and how a change of `y` is passed on to `X`, `w` and `b`.

    Backward is given `g`, the gradient of the loss `L` with respect to the outputs: `g_i = ∂L/∂y_i`. Written out, an
    output is `y_i = Σ_j X_ij w_j + b`, and the chain rule sums over all outputs that an argument takes part in:

        ∂L/∂X_ij = g_i w_j              as a matrix: g wᵀ   (X_ij takes part in y_i alone)
        ∂L/∂w_j  = Σ_i g_i X_ij         as a vector: Xᵀ g
        ∂L/∂b    = Σ_i g_i

    PyTorch's autograd does the same for its own functions; `tests/test_linear_regression.py` compares the two, and
    both with finite differences.
    """

    @staticmethod
    def forward(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Compute `(n,)` outputs from inputs `(n, d)`, weight `(d,)` and bias `(1,)`."""
        return inputs @ weight + bias

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Keep what backward needs: the formulas above have `X` and `w` in them, and not `b`."""
        features, weight, _ = inputs
        ctx.save_for_backward(features, weight)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of each argument of `forward`, None for one that nobody asks for."""
        inputs, weight = ctx.saved_tensors
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            torch.outer(grad_output, weight) if wants_inputs else None,
            inputs.T @ grad_output if wants_weight else None,
            grad_output.sum().view(1) if wants_bias else None,
        )


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute `inputs @ weight + bias`, `(n,)`, with the gradients of `LinearFunction`."""
    outputs: torch.Tensor = LinearFunction.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return outputs


class LinearRegression(nn.Module):
    """Predicts by a weighted sum of the features; trained on squares of errors, it comes to the least-squares fit."""

    def __init__(self, num_features: PositiveInt = 10) -> None:
        """Start at 0, where every prediction is the mean of the training targets.

        Args:
            num_features: columns that the data has besides the target.
        """
        super().__init__()
        self.standardize = Standardize(num_features)
        self.weight = nn.Parameter(torch.zeros(num_features))
        self.bias = nn.Parameter(torch.zeros(1))
        self.unstandardize = Unstandardize()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Turn features `(n, num_features)` into predictions `(n,)`."""
        outputs = linear(self.standardize(features), self.weight, self.bias)
        predictions: torch.Tensor = self.unstandardize(outputs)
        return predictions

    @torch.no_grad()
    def coefficients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what one unit more of each feature adds to a prediction, and the prediction where all are 0."""
        mean, std = self.standardize.feature_mean, self.standardize.feature_std
        scale = self.unstandardize.target_std
        weights = torch.where(std > 0, scale * self.weight / std, 0)
        return weights, self.unstandardize.target_mean + scale * self.bias[0] - weights @ mean
