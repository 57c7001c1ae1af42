"""What a run costs besides its steps: the start, the end and the memory of `train.py`, and of a bare script beside it.

python benchmarks/start.py [--rounds 5] [--imports]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_name}}"
LOGGERS = ("tensorboard", "image_figures", "plots", "report")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

BARE = """
import sys, time
sys.path.insert(0, ".")
import torch
from model.conv_net import ConvNet
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset
from torch.nn import functional

pixels, labels = load_digits(return_X_y=True)
train, valid = train_test_split(list(range(len(labels))), stratify=labels)
images, targets = torch.from_numpy(pixels).float().view(-1, 1, 8, 8), torch.from_numpy(labels).long()
model = ConvNet()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(2):
    for inputs, wanted in DataLoader(TensorDataset(images[train], targets[train]), 64, shuffle=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), wanted).backward()
        optimizer.step()
        if epoch == 0:
            print("step", time.time())
print("end", time.time(), flush=True)
"""

OWN = """
import gc, sys, time
gc.disable()  # as train.py does before its imports
sys.path.insert(0, ".")
import train
from trainer.trainer import Trainer

after_step, end_epoch = Trainer.after_step, Trainer.end_epoch
def note_step(self):
    print("step", time.time(), flush=True)
    after_step(self)
def note_epoch(self, metrics):
    end_epoch(self, metrics)
    print("end", time.time(), flush=True)
Trainer.after_step, Trainer.end_epoch = note_step, note_epoch
sys.argv = ["train.py", "-c", sys.argv[1], "trainer.save_dir=" + sys.argv[2], "trainer.epochs=2", *sys.argv[3:]]
sys.exit(train.run(train.main))
"""


class Cost(NamedTuple):
    """What one run of a script cost besides its steps."""

    first_step: float  # seconds, from the start of the process
    ending: float  # seconds, from the end of the last epoch to that of the process
    memory: float  # MB at most


def cost(code: str, *words: str) -> Cost:
    """Run a script, and measure it."""
    begin = time.time()
    command = [sys.executable, "-c", code, *words]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        end = time.time()
        output.seek(0)
        lines = output.read().splitlines()
    assert status == 0, "\n".join(lines)
    first = next(line for line in lines if line.startswith("step "))
    last = [line for line in lines if line.startswith("end ")][-1]
    return Cost(float(first.split()[1]) - begin, end - float(last.split()[1]), usage.ru_maxrss * 1024 / 1e6)


def main() -> None:
    """Let the scripts take turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns (5)")
    parser.add_argument("--imports", action="store_true", help="list what train.py imports and how long that takes")
    arguments = parser.parse_args()
    if arguments.imports:
        words = [sys.executable, "-X", "importtime", "-c", "import train"]
        table = subprocess.run(words, cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, check=True).stderr
        rows = [line.removeprefix("import time:").split("|") for line in table.splitlines()[1:]]
        longest = sorted(rows, key=lambda row: -int(row[1]))[:25]
        print("\n".join(f"{int(row[1]) / 1000:8.0f} ms {row[2].strip()}" for row in longest))
        return
    config = str(next(PROJECT.glob("configs/image_classification.json")))
    scripts: dict[str, tuple[str, ...]] = {
        "bare script": (BARE,),
        "train.py as it comes": (OWN, config),
        "without TensorBoard, pictures and report": (OWN, config, *(f"loggers.{name}=false" for name in LOGGERS)),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in scripts}
    for _ in range(arguments.rounds):
        for name, (code, *words) in scripts.items():
            with tempfile.TemporaryDirectory() as folder:
                costs[name].append(cost(code, *words[:1], folder, *words[1:]))
    print("| | to the end of the first step | × bare | from the last epoch to the exit | most memory |")
    print("|---|---:|---:|---:|---:|")
    for name, measured in costs.items():
        pairs = zip(measured, costs["bare script"], strict=True)
        ratio = statistics.median(one.first_step / bare.first_step for one, bare in pairs)
        first, ending, memory = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"| {name} | {first:.2f} s | {ratio:.2f} | {ending:.2f} s | {memory:.0f} MB |")


if __name__ == "__main__":
    main()
