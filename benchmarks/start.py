"""From the start of the process to the end of the first training step: `train.py`, and a bare script on the same data.

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

PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_name}}"
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
for inputs, wanted in DataLoader(TensorDataset(images[train], targets[train]), 64, shuffle=True):
    optimizer.zero_grad()
    functional.cross_entropy(model(inputs), wanted).backward()
    optimizer.step()
    print("first step", time.time())
    break
"""

OWN = """
import sys, time
sys.path.insert(0, ".")
import train
from trainer.trainer import Trainer

after_step = Trainer.after_step
def note(self):
    if not self.progress.step:
        print("first step", time.time(), flush=True)
    after_step(self)
Trainer.after_step = note
sys.argv = ["train.py", "-c", sys.argv[1], "trainer.save_dir=" + sys.argv[2], "trainer.epochs=1", "lr_scheduler=null"]
code = train.run(train.main)
print("end", time.time(), flush=True)
sys.exit(code)
"""


def timed(code: str, *words: str) -> tuple[float, float]:
    """Run a script, and return the seconds to its first step, and those from its last line to the process's end."""
    begin = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    end = time.time()
    said = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if line.startswith(("first step", "end ")))
    return float(said["first step"]) - begin, end - float(said.get("end", end))


def main() -> None:
    """Let the two take turns, and print the medians."""
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
    config = sorted([*PROJECT.glob("config.json"), *PROJECT.glob("configs/image_classification.json")])[0]
    bare, own, ending = [], [], []
    for _ in range(arguments.rounds):
        bare.append(timed(BARE)[0])
        with tempfile.TemporaryDirectory() as folder:
            start, end = timed(OWN, str(config), folder)
        own.append(start)
        ending.append(end)
    ratio = statistics.median(one / other for one, other in zip(own, bare, strict=True))
    print("| | seconds |\n|---|---:|")
    print(f"| bare script, to the end of its first step | {statistics.median(bare):.2f} |")
    print(f"| train.py, to the end of its first step | {statistics.median(own):.2f} (× {ratio:.2f}) |")
    print(f"| train.py, from the end of its work to that of the process | {statistics.median(ending):.2f} |")


if __name__ == "__main__":
    main()
