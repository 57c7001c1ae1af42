"""Does transfer learning pay? Test accuracies of five seeds, fine-tuned and from scratch on the same few images.

    python benchmarks/transfer.py [--seeds 5]

A project is baked, and its commands are run as a person would: for each seed a network learns the digits 0 to 4
(`configs/pretrain.yaml`); then it is fine-tuned on a few images of 5 to 9 (`configs/finetune.yaml`), and a fresh
one is trained on the same images (`configs/from_scratch.yaml`). Each is measured by `test.py` on images of 5 to 9
that training has not seen.
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

FINETUNE = ("configs/finetune.yaml",)
FROM_SCRATCH = ("configs/finetune.yaml", "configs/from_scratch.yaml")


def train(project: Path, save_dir: Path, seed: int, *overlays: str) -> Path:
    """Train, and return the run's folder."""
    before = set(save_dir.glob("*/*"))
    configs = [word for overlay in ("config.json", *overlays) for word in ("-c", overlay)]
    words = [f"seed={seed}", f"trainer.save_dir={save_dir}", "trainer.device=cpu"]
    if "configs/pretrain.yaml" not in overlays and overlays != FROM_SCRATCH:
        words.append(f"init_from.path={save_dir / 'digits_0_to_4'}")
    succeed(python("train.py", *configs, *words, cwd=project))
    (run,) = set(save_dir.glob("*/*")) - before
    return run


def test_accuracy(project: Path, run: Path) -> float:
    """Measure what a run has come to."""
    succeed(python("test.py", "-r", str(run), cwd=project))
    report = json.loads((run / "checkpoints" / "last.test.json").read_text(encoding="utf-8"))
    return float(report["metrics"]["test_accuracy"])


def summary(values: list[float]) -> str:
    """Return mean and standard deviation in per cent."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * spread:.1f}"


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 1 on (5)")
    seeds = range(1, parser.parse_args().seeds + 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "baked").mkdir()
        succeed(Bakery(clean_copy(folder / "template"), settings_file(folder)).type_answers(folder / "baked"))
        (project,) = (folder / "baked").iterdir()
        print("Test accuracy on the digits 5 to 9, in per cent:\n")
        print("| seed | from scratch | fine-tuned |\n|---|---|---|", flush=True)
        table: list[tuple[float, float]] = []
        for seed in seeds:
            save_dir = folder / f"seed_{seed}"
            train(project, save_dir, seed, "configs/pretrain.yaml")
            scratch_run = train(project, save_dir, seed, *FROM_SCRATCH)
            fine_run = train(project, save_dir, seed, *FINETUNE)
            table.append((test_accuracy(project, scratch_run), test_accuracy(project, fine_run)))
            print(f"| {seed} | {100 * table[-1][0]:.1f} | {100 * table[-1][1]:.1f} |", flush=True)
        print(
            "| mean ± standard deviation | " + " | ".join(summary([*each]) for each in zip(*table, strict=True)) + " |"
        )


if __name__ == "__main__":
    main()
