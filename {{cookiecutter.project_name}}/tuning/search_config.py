"""The section `search` of a config: what is varied, and how; checked like everything else in a config."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from tuning.search_checks import drawn_problems, space_problems
from utils.config import Config, Section
from utils.config_checks import all_problems
from utils.config_files import located, read_layers
from utils.config_layers import Layer
from utils.config_problems import Problem, translate
from utils.errors import ConfigError


class Search(Section):
    """What is varied, how values are chosen, and when a trial is given up."""

    algorithm: Literal["random", "grid", "optuna"] = Field(
        default="optuna",
        description="How values are chosen: at random, all of a grid, or from what went well so far (Optuna's TPE).",
    )
    trials: PositiveInt | None = Field(
        default=None, description="How many trainings; null means 20, and with a grid all combinations."
    )
    early_stopping: Literal["asha"] | None = Field(
        default="asha", description="asha ends trials that fall behind the others at the same epoch; null ends none."
    )
    min_epochs: PositiveInt = Field(default=3, description="Epochs that every trial gets before it may be ended.")
    cpus_per_trial: PositiveInt = Field(
        default=1, description="CPU cores for each trial; as many trials run at a time as the machine has cores for."
    )
    gpus_per_trial: float | None = Field(
        default=None, ge=0, description="GPUs for each trial, also 0.5; null means one where there are any."
    )
    space: dict[str, dict[str, list[Any]]] = Field(
        min_length=1,
        description="Key paths of the config, each with what its value is drawn from: "
        "choice: [a, b, c], uniform: [low, high], log_uniform, int or log_int.",
    )

    def number_of_trials(self) -> int:
        """Return how many trainings the search is."""
        if self.algorithm == "grid":
            return math.prod(len(values) for entry in self.space.values() for values in entry.values())
        return self.trials or 20


class SearchFile(Section):
    """The part of a config file that is about the search."""

    search: Search = Field(description="What is varied, and how.")


def load_search(files: Sequence[Path], words: Sequence[str] = ()) -> tuple[Config, Search]:
    """Read files and words as for a training, with a section `search` besides.

    Raises:
        ConfigError: with everything that is wrong, in the config or in what may be drawn from the space.
    """
    merged, problems = read_layers(files, words)
    base = Layer({key: value for key, value in merged.data.items() if key != "search"}, merged.places)
    data = {"search": merged.data["search"]} if "search" in merged.data else {}
    found = []
    try:
        SearchFile.model_validate(data)
    except ValidationError as error:
        found = translate(error, data, SearchFile)
    found += space_problems(data.get("search"))
    wrong = {path[2] for path, _ in found if path[:2] == ("search", "space") and len(path) > 2}
    of_base = all_problems(base.data)
    found += of_base
    found += drawn_problems(base, data.get("search"), wrong, of_base)
    if problems := problems + located(merged, found):
        raise ConfigError(problems)
    config, search = Config.model_validate(base.data), Search.model_validate(data["search"])
    if config.trainer.monitor is None:
        text = "found null, but a search needs a metric to compare trials by"
        raise ConfigError(located(merged, [Problem(("trainer", "monitor"), text)]))
    return config, search
