"""The linear regression by hand: its gradients, and that it comes to the solution of least squares."""

from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from data_loaders.dataset import InMemoryDataset
from model.linear_regression import LinearRegression, linear
from trainer.build import build_trainer
from utils.config_files import load_config

ROOT = Path(__file__).parents[1]
(CONFIG,) = [file for file in (ROOT / "config.json", ROOT / "configs" / "tabular_regression.json") if file.exists()]

Arguments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def arguments() -> Arguments:
    generator = torch.Generator().manual_seed(1)
    inputs, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 3), (3,), (1,))
    )
    return inputs, weight, bias


def test_the_gradients_are_those_of_finite_differences(arguments: Arguments) -> None:
    assert gradcheck(linear, arguments)
    assert gradgradcheck(linear, arguments)


def test_forward_and_backward_agree_with_autograd(arguments: Arguments) -> None:
    inputs, weight, bias = arguments
    by_hand = linear(inputs, weight, bias)
    by_torch = functional.linear(inputs, weight[None], bias)[:, 0]
    torch.testing.assert_close(by_hand, by_torch)
    grads = [torch.autograd.grad(outputs.square().sum(), arguments) for outputs in (by_hand, by_torch)]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("wanted", range(3))
def test_only_what_is_asked_for_is_computed(arguments: Arguments, wanted: int) -> None:
    constants = [each.detach().requires_grad_(number == wanted) for number, each in enumerate(arguments)]
    linear(*constants).sum().backward()
    assert [each.grad is not None for each in constants] == [number == wanted for number in range(3)]


def test_it_starts_at_the_mean() -> None:
    model = LinearRegression(num_features=3)
    model.unstandardize.target_mean.fill_(152)
    assert model(torch.randn(4, 3)).tolist() == [152] * 4


def test_training_comes_to_the_solution_of_least_squares(tmp_path: Path) -> None:
    """The shipped config, the loop and all, against `lstsq` on the raw numbers: within 0.01 points of 25 to 346."""
    files = [CONFIG, ROOT / "configs" / "linear_regression.yaml"]
    words = [f"trainer.save_dir={tmp_path}", "trainer.device=cpu", "loggers={}", "trainer.monitor=null", "metrics=[]"]
    trainer = build_trainer(load_config(files, [*words, "trainer.save_every_epochs=1000"]))
    (tmp_path / "checkpoints").mkdir()
    trainer.open_run(tmp_path)
    trainer.train()

    assert isinstance(trainer.loaders.train.dataset, InMemoryDataset)
    features, target = (tensor.double() for tensor in trainer.loaders.train.dataset.tensors)
    ones = torch.ones(len(features), 1)
    solution = torch.linalg.lstsq(torch.cat([features, ones], dim=1), target, driver="gelsd").solution

    model = trainer.model
    assert isinstance(model, LinearRegression)
    weights, intercept = model.coefficients()
    torch.testing.assert_close(weights, solution[:-1].float(), rtol=1e-3, atol=1e-3)
    assert intercept.item() == pytest.approx(solution[-1].item(), rel=1e-3)
    predictions = torch.cat([features, ones], dim=1) @ solution
    assert (model(features.float()) - predictions).abs().max() < 0.01
