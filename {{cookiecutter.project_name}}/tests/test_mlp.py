"""The network for tables, and the units in which it speaks."""

import pytest
import torch

from model.loss import NormalizedMSELoss
from model.mlp import MLP
from model.standardize import Standardize, Unstandardize


def test_any_batch_and_number_of_features_gives_a_number_per_sample() -> None:
    for batch_size, features in ((1, 1), (2, 10), (7, 3)):
        assert MLP(num_features=features)(torch.randn(batch_size, features)).shape == (batch_size,)


def test_every_parameter_gets_a_gradient() -> None:
    model = MLP()
    model(torch.randn(64, 10)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


def test_dropout_acts_in_training_alone() -> None:
    model = MLP(dropout=0.5)
    features = torch.randn(6, 10)
    assert not torch.equal(model(features), model(features))
    model.eval()
    assert torch.equal(model(features), model(features))


def test_features_are_standardised_and_one_that_never_varied_is_nothing() -> None:
    standardize = Standardize(3)
    standardize.feature_mean.copy_(torch.tensor([5.0, 2001.0, -1.0]))
    standardize.feature_std.copy_(torch.tensor([2.0, 0.0, 0.5]))
    assert standardize(torch.tensor([[9.0, 1900.0, -1.0], [5.0, 2001.0, 0.0]])).tolist() == [[2, 0, 0], [0, 0, 2]]


def test_predictions_come_in_the_unit_of_the_target() -> None:
    unstandardize = Unstandardize()
    unstandardize.target_mean.fill_(150)
    unstandardize.target_std.fill_(10)
    assert unstandardize(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [140, 150, 170]


def test_the_loss_of_the_mean_is_1_and_shapes_are_not_broadcast() -> None:
    loss = NormalizedMSELoss()
    target = 50 * torch.randn(100, generator=torch.Generator().manual_seed(1)) + 150
    loss.target_std.copy_(target.std(correction=0))
    losses = loss(target.mean().expand(100), target)
    assert losses.shape == (100,)
    assert losses.mean().item() == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="shapes"):
        loss(target[:, None], target)
