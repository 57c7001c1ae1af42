"""Number formats: how precisely the model computes."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from utils.config import TrainerSection
from utils.device import map_tensors

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """What `trainer.precision` asks for.

    `fp32` is full precision; `tf32` rounds the factors of matrix products to 10 bits on GPUs that can; `bf16` and
    `fp16` compute most of the model in 16 bits (autocast), while the weights themselves stay in 32.
    """

    def __init__(self, settings: TrainerSection, device: torch.device) -> None:
        """Set the formats; those of matrix products hold for the whole process."""
        dtype = _HALF.get(settings.precision)
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        if dtype is not None:
            self.autocast = partial(torch.autocast, device.type, dtype)
        torch.set_float32_matmul_precision("highest" if settings.precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = settings.precision != "fp32"
        torch.use_deterministic_algorithms(settings.deterministic)
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, matrix products are refused
        self.half = dtype is not None
        self.needs_scaling = dtype is torch.float16

    def full(self, output: Any) -> Any:
        """Return a model's output in 32 bits, for metrics."""
        return map_tensors(lambda t: t.float() if t.is_floating_point() else t, output) if self.half else output
