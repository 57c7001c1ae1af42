"""What the loops of the benchmark train: data, network and batch size, the same for all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_name}}"
sys.path.insert(0, str(PROJECT))

from model.conv_net import ConvNet  # noqa: E402

SEED, LR = 0, 1e-3

# What tells the time; on a machine that is busy with other things `time.process_time` may take its place.
TELL: Callable[[], float] = time.perf_counter


class Clock(nn.Module):
    """A network that notes the time at its `first` and its `last` training step, whoever calls it.

    The time between the two holds everything that a loop does: batches, update, logging, and checkpoints where they
    fall in between.
    """

    def __init__(self, network: nn.Module, first: int, last: int) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network
        self.first, self.last = first, last
        self.calls = 0
        self.begin = self.end = 0.0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Call the network."""
        if self.training:
            self.calls += 1
            if self.calls == self.first:
                self.begin = _now(inputs)
            elif self.calls == self.last:
                self.end = _now(inputs)
        output: torch.Tensor = self.network(inputs)
        return output

    @property
    def seconds_per_step(self) -> float:
        """The mean time of a step."""
        assert self.end, f"the loop took {self.calls} steps and should have taken {self.last}"
        return (self.end - self.begin) / (self.last - self.first)


def _now(inputs: torch.Tensor) -> float:
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return TELL()


class TinyTransformer(nn.Module):
    """Predicts the next character: two layers, 64 wide, four heads."""

    def __init__(self, tokens: int = 96, width: int = 64, heads: int = 4, layers: int = 2, length: int = 64) -> None:
        """Build it."""
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.places = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn token numbers `(n, length)` into scores `(n, tokens, length)`."""
        hidden = self.layers(self.embedding(inputs) + self.places, mask=self.mask, is_causal=True)
        scores: torch.Tensor = self.head(hidden)
        return scores.transpose(1, 2)


def resnet(channels: int = 64, blocks: int = 8, num_classes: int = 10) -> nn.Module:
    """Build a residual network about as big as ResNet-18, for 32×32 pixels."""

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1, bias=False),
                nn.BatchNorm2d(after),
            )
            self.short = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.relu(self.body(x) + self.short(x))

    widths = [channels * 2 ** (number // 2) for number in range(blocks)]
    before, layers = channels, []
    for after in widths:
        layers.append(Block(before, after, 2 if after > before else 1))
        before = after
    stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))
    return nn.Sequential(stem, *layers, head)


@dataclass
class Workload:
    """One job: what is trained on what, and how many steps of it are measured.

    Attributes:
        name: as in the tables.
        build: makes the network.
        tensors: inputs and targets, one row per sample.
        batch_size: samples per step.
        steps: measured steps; each loop takes `warm_up` more before them.
        metric: what the project's Trainer measures besides the loss, as a user of the task would.
        device: where it runs.
        bf16: with automatic mixed precision.
        compiled: with `torch.compile`.
    """

    name: str
    build: Callable[[], nn.Module]
    tensors: tuple[torch.Tensor, torch.Tensor]
    batch_size: int
    steps: int
    metric: str = "accuracy"
    device: str = "cpu"
    bf16: bool = False
    compiled: bool = False
    warm_up: int = 10
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Passes over the data that make enough steps."""
        per_epoch = -(-len(self.tensors[0]) // self.batch_size)
        return -(-(self.warm_up + self.steps + 1) // per_epoch)

    def model(self) -> Clock:
        """Make the network, with the same weights every time."""
        torch.manual_seed(SEED)
        network = self.build().to(self.device)
        clock = Clock(network, self.warm_up, self.warm_up + self.steps)
        if self.compiled:
            network.compile()
        return clock

    def loss(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Compute what every loop minimises."""
        return functional.cross_entropy(scores, targets)


def digits(copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits that scikit-learn carries, several times over, as images `(n, 1, 8, 8)` and labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    return images.repeat(copies, 1, 1, 1), torch.from_numpy(labels).long().repeat(copies)


def text(samples: int, length: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return characters of this project's own README and source, and for each the character that comes next."""
    files = sorted(PROJECT.rglob("*.py"))
    characters = [ord(c) % 96 for file in files for c in file.read_text(encoding="utf-8")]
    stream = torch.tensor(characters * (1 + samples * length // len(characters)))
    rows = torch.stack([stream[i * length : i * length + length + 1] for i in range(samples)])
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def workloads(scale: float = 1.0) -> list[Workload]:
    """Make all jobs that this machine can do; `scale` shortens them."""

    def steps(number: int) -> int:
        return max(5, round(scale * number))

    mlp = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))  # noqa: E731
    # Each takes two or three epochs, so that what happens at the end of one, a checkpoint say, counts.
    jobs = [
        Workload("tiny MLP", mlp, digits(8), 64, steps(650)),
        Workload("conv net", ConvNet, digits(2), 64, steps(100)),
        Workload("small Transformer", TinyTransformer, text(512), 16, steps(50)),
    ]
    if torch.cuda.is_available():
        images = torch.randn(8192, 3, 32, 32), torch.randint(10, (8192,))
        jobs += [
            # Warms up for more than an epoch, because the first evaluation compiles the network once more.
            Workload(name, resnet, images, 256, steps(200), device="cuda", bf16=True, compiled=compiled, warm_up=40)
            for name, compiled in (("ResNet, bf16", False), ("ResNet, bf16, compiled", True))
        ]
    return jobs
