"""What freezing saves: time of a training step, and memory of gradients, optimizer state and kept activations.

    python benchmarks/freezing.py [--repetitions 15]

The project's own `Trainer.train_step` runs on random images, in one thread, with AdamW. Processor time is measured,
and the settings take turns, so that a machine that is busy with other things does not favour one of them; the median
over the turns is reported.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from handmade import config_for
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from model.conv_net import ConvNet
from trainer.trainer import Trainer

BATCH = 64
MB = 1e6


class DeepNet(nn.Module):
    """Eight layers of convolution that get broader as the images get smaller, and a linear head."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256), num_classes: int = 10) -> None:
        """Build two layers of each width."""
        super().__init__()
        channels = [1, *(width for width in widths for _ in range(2))]
        layers = []
        for number, (before, after) in enumerate(pairwise(channels)):
            pooling = nn.MaxPool2d(2) if number % 2 else nn.Identity()
            convolution = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(), pooling))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1], num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images `(n, 1, 16, 16)` into class scores."""
        scores: torch.Tensor = self.head(self.features(images))
        return scores


# What is measured: network, size of its images, steps in a turn, and the patterns of each setting.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int, dict[str, list[str]]]] = {
    "the default network (model/conv_net.py), 8×8 pixels": (
        ConvNet,
        8,
        20,
        {"nothing": [], "the lower half": ["features.0", "features.1"], "all but the head": ["*", "!head"]},
    ),
    "a deeper one (8 convolutions, 32 to 256 channels), 16×16 pixels": (
        DeepNet,
        16,
        3,
        {"nothing": [], "the lower half": ["features.[0-3]"], "all but the head": ["*", "!head"]},
    ),
}


def trainer_for(network: nn.Module, images: torch.Tensor, freeze: list[str]) -> Trainer:
    """Make a trainer of the project for a network and random labels."""
    loader = Loader(InMemoryDataset(images, torch.randint(10, (len(images),))), BATCH)
    trainer = Trainer(config_for("cross_entropy", {}, freeze=freeze), network, Loaders(loader, loader, loader))
    trainer.freezing.train_mode()
    return trainer


def bytes_kept(trainer: Trainer, batch: Any) -> dict[str, int]:
    """Take a step, and count the bytes that it leaves, or keeps until its gradients are known."""
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*trainer.model.parameters(), *trainer.model.buffers())}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        trainer.train_step(batch)
    gradients = [parameter.grad.nbytes for parameter in trainer.model.parameters() if parameter.grad is not None]
    state = [value.nbytes for entry in trainer.optimizer.state.values() for value in entry.values()]
    return {"gradients": sum(gradients), "optimizer": sum(state), "activations": sum(kept.values())}


def measure(name: str, repetitions: int) -> None:
    """Print the table of one network."""
    build, size, steps, settings = NETWORKS[name]
    images = torch.randn(BATCH, 1, size, size)
    trainers = {setting: trainer_for(build(), images, freeze) for setting, freeze in settings.items()}
    batch = next(iter(next(iter(trainers.values())).loaders.train))
    memory = {setting: bytes_kept(trainer, batch) for setting, trainer in trainers.items()}
    times: dict[str, list[float]] = {setting: [] for setting in settings}
    for _ in range(repetitions):
        for setting, trainer in trainers.items():
            start = time.process_time()
            for _ in range(steps):
                trainer.train_step(batch)
            times[setting].append((time.process_time() - start) / steps)
    medians = {setting: statistics.median(values) for setting, values in times.items()}

    count = sum(parameter.numel() for parameter in next(iter(trainers.values())).model.parameters())
    print(f"\n{name}, {count:,} parameters, batches of {BATCH}\n")
    print("| frozen | trained parameters | ms per step | × nothing | gradients MB | optimizer MB | activations MB |")
    print("|---|---|---|---|---|---|---|")
    for setting, trainer in trainers.items():
        trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
        cells = [
            setting,
            f"{trained:,}",
            f"{1e3 * medians[setting]:.2f}",
            f"{medians[setting] / medians['nothing']:.2f}",
        ]
        cells += [f"{memory[setting][key] / MB:.3f}" for key in ("gradients", "optimizer", "activations")]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15, help="turns of each setting (15)")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, processor time, median of {repetitions} turns")
    for name in NETWORKS:
        measure(name, repetitions)


if __name__ == "__main__":
    main()
