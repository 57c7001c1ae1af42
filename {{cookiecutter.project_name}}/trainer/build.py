"""From a config to a trainer that is ready to run."""

import torch
from torch import nn

from data_loaders.loader import Loaders
from data_loaders.randomness import hash_counter
from trainer.starting_weights import set_starting_weights
from trainer.trainer import Trainer
from utils.config import Config
from utils.config_rules import check_against_data
from utils.distributed import rank, world_size
from utils.errors import ConfigError
from utils.registry import build, find
from utils.seeding import seed_everything


def build_trainer(config: Config, starting_weights: bool = False) -> Trainer:
    """Build data, model and trainer; no file is written.

    Args:
        config: what to build.
        starting_weights: whether to give the model the weights that a new run starts from, by `init_from` and
            `init_weights`; one that goes on, or is evaluated, gets those of a checkpoint.

    Raises:
        UserError: the config does not fit the data, or the parts do not fit each other.
    """
    seed_everything(config.seed)
    loaders: Loaders = build("data_loader", config.data_loader, seed=config.seed)
    problems = _empty(loaders) or check_against_data(config, len(loaders.train), loaders.train.num_samples)
    if problems:
        raise ConfigError(problems)
    seed_everything(config.seed)  # again: building the data may have drawn, if only by importing a library
    model = build("model", config.model)
    give_statistics(model, loaders.statistics, config.model.type)
    if starting_weights:
        set_starting_weights(config, model)
    if world_size() > 1:
        for loader in (loaders.train, loaders.valid, loaders.test):
            loader.set_share(rank(), world_size())
        seed_everything(hash_counter(config.seed, rank()))  # the same weights everywhere, but not the same dropout
    trainer: Trainer = find("trainer", config.trainer.type)(config, model, loaders)
    return trainer


def _empty(loaders: Loaders) -> list[str]:
    sizes = {"training": loaders.train.num_samples, "validation": loaders.valid.num_samples}
    return [f"data_loader: there are no samples for {split}" for split, size in sizes.items() if size == 0]


def give_statistics(model: nn.Module, statistics: dict[str, torch.Tensor], name: str) -> None:
    """Fill the model's buffers with the statistics of the training data that bear their names.

    A model that keeps them takes its input, and returns its output, in the units of the data, and its checkpoint
    is all that a prediction needs.

    Raises:
        ConfigError: the model was built for data of another shape.
    """
    buffers = dict(model.named_buffers())
    for key, value in statistics.items():
        if key in buffers:
            if buffers[key].shape != value.shape:
                raise ConfigError(
                    [
                        f"model.args: {name} is built for data whose {key} has shape {tuple(buffers[key].shape)}, "
                        f"and that of the training data has {tuple(value.shape)}"
                    ]
                )
            buffers[key].copy_(value)
