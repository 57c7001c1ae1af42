"""Generation: repeatable, within the model's length, and faithful to what the model says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from data_loaders.byte_tokens import END
from model.transformer import Transformer
from utils.generation import generate

Script = Callable[..., int]


class Counter(nn.Module):
    """Knows that after each token comes the next number, and gives the one after that half the chance."""

    max_length = 4

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.longest = max(self.longest, tokens.shape[1])
        likely = nn.functional.one_hot((tokens + 1) % 257, 257) + 0.5 * nn.functional.one_hot((tokens + 2) % 257, 257)
        return likely.log()


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(max_length=8, width=16, depth=1, heads=2).eval()


def test_it_goes_on_with_what_the_model_finds_likely_and_never_exceeds_its_length() -> None:
    model = Counter()
    assert generate(model, [5], 10, top_k=1) == list(range(6, 16))
    assert model.longest == 4
    assert generate(model, [5, 6, 7, 8, 9, 10], 2, temperature=1e-3) == [11, 12]
    steps = torch.tensor([5, *generate(model, [5], 200, seed=3)]).diff() % 257
    assert set(steps.tolist()) == {1, 2}
    assert (steps == 1).float().mean().item() == pytest.approx(2 / 3, abs=0.17)  # five standard deviations


def test_it_stops_at_the_end_of_a_text_or_goes_on_with_another() -> None:
    assert generate(Counter(), [253], 10, top_k=1, stop=END) == [254, 255, END]
    assert generate(Counter(), [253], 5, top_k=1) == [254, 255, END, 0, 1]


def test_the_seed_decides(model: Transformer) -> None:
    first = generate(model, [END], 30, seed=1)
    torch.rand(3)  # the global generator has no part in it
    assert generate(model, [END], 30, seed=1) == first
    assert generate(model, [END], 30, seed=2) != first


def test_the_script_writes_with_a_trained_model(
    finished_run: Path, script: Script, capfd: pytest.CaptureFixture[str]
) -> None:
    if "Transformer" not in (finished_run / "config.json").read_text(encoding="utf-8"):
        pytest.skip("a run of another task")
    words = ["-r", finished_run, "--prompt", "The 한", "--length", 40, "--temperature", 0.8, "--top-k", 40, "--seed", 1]
    capfd.readouterr()
    assert script("generate.py", *words) == 0
    text = capfd.readouterr().out
    assert text.startswith("The 한")
    assert script("generate.py", *words) == 0
    assert capfd.readouterr().out == text
    assert script("generate.py", "-r", finished_run, "--temperature", 0) == 2
    assert script("generate.py", "-r", finished_run, "--top-k", 0) == 2
