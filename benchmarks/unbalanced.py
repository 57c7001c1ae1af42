"""What does the weighted sampler do for a rare class? Recall of the digit 8 and accuracy on the test split, five seeds.

    python benchmarks/unbalanced.py [--seeds 5]

A project is baked, and its commands are run as a person would: for each seed it is trained on digits of which one is
rare (`configs/unbalanced.yaml`), shuffled and with the weighted sampler (`configs/weighted.yaml`), and measured by
`test.py` on the test split, in which the digit is as frequent as the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

from baking import Bakery, python, settings_file, succeed  # noqa: E402
from clean_copy import clean_copy  # noqa: E402

SHUFFLED = ("configs/unbalanced.yaml",)
WEIGHTED = ("configs/unbalanced.yaml", "configs/weighted.yaml")


def measured(project: Path, save_dir: Path, seed: int, overlays: tuple[str, ...]) -> tuple[float, float]:
    """Train, and return recall of the 8 and accuracy on the test split, in per cent."""
    configs = [word for overlay in ("config.json", *overlays) for word in ("-c", overlay)]
    succeed(
        python("train.py", *configs, f"seed={seed}", f"trainer.save_dir={save_dir}", "trainer.device=cpu", cwd=project)
    )
    (run,) = save_dir.glob("*/*")
    succeed(python("test.py", "-r", str(run), cwd=project))
    report = json.loads((run / "checkpoints" / "last.test.json").read_text(encoding="utf-8"))
    return 100 * report["metrics"]["test_recall_8"], 100 * report["metrics"]["test_accuracy"]


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 1 on (5)")
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        project = Bakery(clean_copy(folder / "template"), settings_file(folder)).bake(folder / "baked")
        print("| seed | recall, shuffled | recall, weighted | accuracy, shuffled | accuracy, weighted |")
        print("|---|---|---|---|---|", flush=True)
        rows = []
        for seed in range(1, seeds + 1):
            shuffled = measured(project, folder / f"shuffled_{seed}", seed, SHUFFLED)
            weighted = measured(project, folder / f"weighted_{seed}", seed, WEIGHTED)
            rows.append((shuffled[0], weighted[0], shuffled[1], weighted[1]))
            print(f"| {seed} | " + " | ".join(f"{value:.1f}" for value in rows[-1]) + " |", flush=True)
        if seeds > 1:
            cells = [
                f"{statistics.mean(column):.1f} ± {statistics.stdev(column):.1f}" for column in zip(*rows, strict=True)
            ]
            print("| mean ± standard deviation | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
