"""The search itself, by Ray Tune: which trials to run, where, how many at a time, and which to end early.

Ray's own records lie in the folder `ray` of the search.
"""

import functools
import json
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from logger.console import log
from tuning.cluster import check_room, has_gpus
from tuning.records import Records, new_name
from tuning.results import forget_unfinished
from tuning.search_config import Search
from tuning.trial import TuneTrial
from utils.config import Config

RAY = "ray"
# How often a trial goes on elsewhere after its actor was killed, or the machine that it ran on.
RECOVERIES = 3


def resources(search: Search) -> dict[str, float]:
    """Return what each trial needs of the machine, or of the cluster.

    Raises:
        UserError: there is no machine with so much.
    """
    gpus = int(has_gpus()) if search.gpus_per_trial is None else search.gpus_per_trial
    check_room("trials (search.cpus_per_trial, search.gpus_per_trial)", search.cpus_per_trial, gpus)
    return {"cpu": search.cpus_per_trial, "gpu": gpus}


def run_search(folder: Path, config: Config, search: Search, needs: dict[str, float], *, resume: bool) -> int | None:
    """Run the trials of a search, or those that are left, on Ray, which has been started.

    Args:
        folder: that of the search, absolute.
        config: what the trials' values are laid over.
        search: what to vary.
        needs: what each trial needs, as `resources` found it.
        resume: whether to go on with the search that Ray's records in the folder are of.

    Returns:
        The number of the signal that interrupted it, or None if it has reached its end.
    """
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the runs have their own logs
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a failed trial has no value
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # or it would print although it is told not to (verbose=0)
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1"  # seconds between two writes of Ray's records; 10 is much to forget
    # A trial that goes on after a kill reports its epochs anew; Optuna keeps the first, and need not say so.
    warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
    warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)  # a metric may be NaN at first
    assert config.trainer.monitor
    metric = config.trainer.monitor.split()[1]
    with interruptible() as received, suppress(KeyboardInterrupt):
        trainable = tune.with_parameters(TuneTrial, folder=str(folder), cwd=str(Path.cwd()), metric=metric)
        trainable = tune.with_resources(trainable, needs)
        # It cannot be restored if it was ended within the first seconds.
        if resume and tune.Tuner.can_restore(str(folder / RAY)):
            forget_unfinished(folder)
            tuner = tune.Tuner.restore(str(folder / RAY), trainable=trainable)
        else:
            tuner = new_tuner(trainable, folder, config, search)
        tuner.fit()
    ray.shutdown()
    return received[0] if received else None


def new_tuner(trainable: Any, folder: Path, config: Config, search: Search) -> Any:
    """Put a new search together."""
    assert config.trainer.monitor
    mode, metric = config.trainer.monitor.split()
    grid = search.algorithm == "grid"
    scheduler = None
    if search.early_stopping == "asha":
        # Trials end by themselves, so max_t need only be large enough for any number of epochs.
        scheduler = ASHAScheduler(
            time_attr="epoch", grace_period=search.min_epochs, reduction_factor=3, max_t=10**6, stop_last_trials=False
        )
    return tune.Tuner(
        trainable,
        param_space={key: domain(*next(iter(space.items())), grid) for key, space in search.space.items()},
        tune_config=tune.TuneConfig(
            metric="best",
            mode=mode,
            num_samples=1 if grid else search.number_of_trials(),
            search_alg=algorithm(search, config.seed),
            scheduler=scheduler,
            reuse_actors=True,
            trial_name_creator=functools.partial(new_name, folder),
            trial_dirname_creator=str,
        ),
        run_config=tune.RunConfig(
            name=RAY,
            storage_path=str(folder),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the runs have their own checkpoints
            failure_config=tune.FailureConfig(max_failures=RECOVERIES),
            callbacks=[Records(folder, metric)],
            verbose=0,
        ),
    )


def domain(kind: str, values: list[Any], grid: bool) -> Any:
    """Turn an entry of the search space into Ray's. Choices may be anything, so they travel as JSON texts."""
    if kind == "choice":
        texts = [json.dumps(value) for value in values]
        return tune.grid_search(texts) if grid else tune.choice(texts)
    low, high = values
    ranges = {"uniform": tune.uniform, "log_uniform": tune.loguniform}
    if kind in ranges:
        return ranges[kind](low, high)
    return {"int": tune.randint, "log_int": tune.lograndint}[kind](low, high + 1)  # Ray leaves the highest out


def algorithm(search: Search, seed: int) -> Any:
    """Make what chooses the values."""
    if search.algorithm == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return OptunaSearch(seed=seed)
    return BasicVariantGenerator(random_state=seed)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM end the search where it can go on: Ray saves its state when it gets a SIGUSR1."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler)  # a second one ends it at once
        received.append(number)
        log.info("stopping: the trials write their checkpoints")
        os.kill(os.getpid(), signal.SIGUSR1)

    if not hasattr(signal, "SIGUSR1"):
        yield received
        return
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    signal.signal(signal.SIGUSR1, signal.default_int_handler)  # until Ray listens to it, there is nothing to save
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
