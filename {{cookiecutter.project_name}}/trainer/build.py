"""From a config to a trainer that is ready to run."""

from data_loaders.loader import Loaders
from trainer.trainer import Trainer
from utils.config import Config
from utils.config_rules import check_against_data
from utils.errors import ConfigError
from utils.registry import build, find
from utils.seeding import seed_everything


def build_trainer(config: Config) -> Trainer:
    """Build data, model and trainer; no file is written.

    Raises:
        UserError: the config does not fit the data, or the parts do not fit each other.
    """
    seed_everything(config.seed)
    loaders: Loaders = build("data_loader", config.data_loader, seed=config.seed)
    problems = _empty(loaders) or check_against_data(config, len(loaders.train), len(loaders.train.dataset))
    if problems:
        raise ConfigError(problems)
    seed_everything(config.seed)  # again: building the data may have drawn, if only by importing a library
    model = build("model", config.model)
    trainer: Trainer = find("trainer", config.trainer.type)(config, model, loaders)
    return trainer


def _empty(loaders: Loaders) -> list[str]:
    sizes = {"training": len(loaders.train.dataset), "validation": len(loaders.valid.dataset)}
    return [f"data_loader: there are no samples for {split}" for split, size in sizes.items() if size == 0]
