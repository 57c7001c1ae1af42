"""Predict for each row of a CSV file, in the unit of the target.

python predict_csv.py -r saved/diabetes/<run> new.csv > predictions.csv        by the run's best checkpoint, or a file

The columns are found by the names that they had in training. The output has one line for each row that is
not empty, in the same order.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_loaders.csv_table import read_columns
from trainer.checkpoint import load_checkpoint
from trainer.restoring import load_weights
from trainer.run_folder import BEST, CHECKPOINTS
from utils.config_files import config_from_dict
from utils.errors import UserError, run
from utils.registry import build


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--resume", required=True, type=Path, metavar="RUN", help="a run's folder or a file")
    parser.add_argument("--delimiter", default=",", help="what stands between two values (a comma)")
    parser.add_argument("file", type=Path, help="rows to predict for")
    return parser.parse_args()


def fill_in(columns: NDArray[np.float64], state: dict[str, Any]) -> NDArray[np.float64]:
    """Put the mean of the training rows where values are missing, if that was done in training too."""
    means = [value for name, value in state["model"].items() if name.endswith("feature_mean")]
    if state["config"]["data_loader"]["args"].get("missing") != "mean" or not means:
        return columns
    return np.where(np.isnan(columns), means[0].numpy(), columns)


def main() -> int:
    """Print a prediction for each row."""
    arguments = parse_arguments()
    path = arguments.resume / CHECKPOINTS / BEST if arguments.resume.is_dir() else arguments.resume
    state = load_checkpoint(path)
    if "features" not in state["data"]:
        raise UserError(f"{path}: this network was not trained on a table")
    columns = fill_in(read_columns(arguments.file, state["data"]["features"], arguments.delimiter), state)
    lacking = np.isnan(columns).any(axis=1)
    if lacking.any():
        raise UserError(f"{arguments.file}: {lacking.sum()} of {len(columns)} rows miss values")

    model = build("model", config_from_dict(state["config"], [], str(path)).model)
    load_weights(model, state["model"])
    model.eval()
    with torch.inference_mode():
        predictions = model(torch.from_numpy(columns).float())
    print(state["data"]["target"], *(f"{value:.6g}" for value in predictions.tolist()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
