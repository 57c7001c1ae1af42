"""`torch.compile`: in place, and so that a resumed run computes the same bits."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from utils.errors import UserError

# Shapes of batches for which a model is compiled: whole and last ones, in training and in evaluation, and their pieces.
SHAPES = 16


def compile_model(model: nn.Module, shapes: Literal[True, "dynamic"]) -> None:
    """Let a model be compiled when it is first called; it stays the same object, and its parameters keep their names.

    By default PyTorch compiles for the first shape that comes and, when another one comes, once more for any. Which
    code a batch meets would then depend on what came before it, and a resumed run would differ in the last bits from
    one that never stopped.

    Args:
        model: what to compile.
        shapes: True compiles for each shape of a batch on its own, of which there can be few; "dynamic" compiles once
            for all shapes.

    Raises:
        UserError: there is no compiler for the code that this makes.
    """
    names = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl", os.environ.get("CC", "gcc"), "gcc", "clang")
    if not any(map(shutil.which, names)):
        raise UserError("trainer.compile needs a C++ compiler, such as g++, and there is none on the PATH")
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit

    config.cache_size_limit = SHAPES
    config.fail_on_cache_limit_hit = True  # by default the rest would be computed without being compiled
    model.compile(dynamic=shapes == "dynamic")
    compiled = model._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)  # type: ignore[misc]
        except FailOnRecompileLimitHit as error:
            raise UserError(
                f"trainer.compile: batches come in more than {SHAPES} shapes, and the model would be compiled for "
                'each of them; trainer.compile="dynamic" compiles it for all'
            ) from error

    model._compiled_call_impl = call


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Let a model be what it was before it was compiled, for those that look into it."""
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        yield
    finally:
        model._compiled_call_impl = compiled
