"""A config of the project for a network and data that a benchmark makes itself and hands to the Trainer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from utils.config import Config


def config_for(loss: str, trainer: Mapping[str, Any], *, lr: float = 1e-3, **sections: Any) -> Config:
    """Make a config: AdamW on the CPU for an epoch, where `trainer` does not say otherwise.

    Args:
        loss: its type.
        trainer: settings of that section.
        lr: the learning rate.
        sections: further ones, such as `metrics`.
    """
    handed_over = {"type": "unused"}
    return Config.model_validate(
        {
            "name": "benchmark",
            "seed": 0,
            "data_loader": handed_over,
            "model": handed_over,
            "loss": {"type": loss},
            "metrics": [],
            "optimizer": {"type": "AdamW", "args": {"lr": lr}},
            "trainer": {"epochs": 1, "device": "cpu", **trainer},
            **sections,
        }
    )
