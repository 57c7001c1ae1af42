"""How much does a small table's split matter? The network and the linear regression on the test rows of ten splits.

    python benchmarks/splits.py [--splits 10]

Each is trained as its config says, evaluated with its best or last checkpoint on the test rows, and compared with
always saying the mean of the training rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_name}}"
sys.path.insert(0, str(PROJECT))

from trainer.build import build_trainer  # noqa: E402
from trainer.checkpoint import load_checkpoint  # noqa: E402
from utils.config_files import load_config  # noqa: E402

NETWORK: list[Path] = []
LINEAR = [PROJECT / "configs" / "linear_regression.yaml"]


def measured(overlays: list[Path], split: int, folder: Path) -> tuple[float, float, float]:
    """Train, and return R², the root mean square error, and that of the training mean, all on the test rows."""
    words = [f"data_loader.args.split_seed={split}", f"trainer.save_dir={folder}", "trainer.device=cpu", "loggers={}"]
    trainer = build_trainer(load_config([PROJECT / "configs" / "tabular_regression.json", *overlays], words))
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    trainer.open_run(folder)
    trainer.train()
    best = checkpoints / "best.pth"
    trainer.model.load_state_dict(load_checkpoint(best if best.exists() else checkpoints / "last.pth")["model"])
    metrics = trainer.evaluate(trainer.loaders.test, "test")
    targets = torch.cat([target for _, target in trainer.loaders.test])
    baseline = (targets - trainer.loaders.statistics["target_mean"]).square().mean().sqrt().item()
    return metrics["test_r2"], metrics["test_rmse"], baseline


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=10, help="how many, with split_seed from 0 on (10)")
    splits = parser.parse_args().splits
    print("| split | R², network | linear | RMSE, network | linear | of the mean |")
    print("|---|---|---|---|---|---|")
    rows = []
    for split in range(splits):
        values = []
        for overlays in (NETWORK, LINEAR):
            with tempfile.TemporaryDirectory() as folder:
                values.append(measured(overlays, split, Path(folder)))
        (r2, rmse, baseline), (linear_r2, linear_rmse, _) = values
        rows.append((r2, linear_r2, rmse, linear_rmse, baseline))
        print(f"| {split} | {r2:.2f} | {linear_r2:.2f} | {rmse:.1f} | {linear_rmse:.1f} | {baseline:.1f} |", flush=True)
    means = zip(
        map(statistics.mean, zip(*rows, strict=True)), map(statistics.stdev, zip(*rows, strict=True)), strict=True
    )
    cells = [
        f"{mean:.{digits}f} ± {std:.{digits}f}" for (mean, std), digits in zip(means, (2, 2, 1, 1, 1), strict=True)
    ]
    print("| mean ± standard deviation | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
