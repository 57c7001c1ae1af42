"""The convolutional network: shapes, gradients, and what an image's neighbours in the batch may change."""

import pytest
import torch

from model.conv_net import ConvNet


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28), (4, 4)])
def test_any_batch_and_image_size_gives_a_score_per_class(batch_size: int, size: tuple[int, int]) -> None:
    model = ConvNet(channels=4)
    assert model(torch.randn(batch_size, 1, *size)).shape == (batch_size, 10)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (12, 16)])
def test_a_pooling_that_would_change_nothing_is_left_out_without_a_difference(size: tuple[int, int]) -> None:
    model = ConvNet(channels=4)
    pooled = ConvNet(channels=4)
    pooled.load_state_dict(model.state_dict())
    pooled.features.append(torch.nn.AdaptiveAvgPool2d(4))
    images = torch.randn(6, 1, *size)
    for each in (model, pooled):
        torch.manual_seed(0)  # for dropout
        each(images).square().sum().backward()
    for one, other in zip(model.parameters(), pooled.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_classes_and_channels_are_what_the_arguments_say() -> None:
    model = ConvNet(num_classes=3, in_channels=2, channels=5)
    assert model(torch.randn(4, 2, 8, 8)).shape == (4, 3)
    assert model.state_dict()["features.0.weight"].shape[0] == 5


def test_every_parameter_gets_a_gradient() -> None:
    model = ConvNet(channels=4)
    model(torch.randn(16, 1, 8, 8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


def test_in_evaluation_an_image_is_judged_by_itself() -> None:
    model = ConvNet(channels=4).eval()
    images = torch.randn(6, 1, 8, 8)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone)


def test_dropout_acts_in_training_alone() -> None:
    model = ConvNet(channels=4, dropout=0.5)
    images = torch.randn(6, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
