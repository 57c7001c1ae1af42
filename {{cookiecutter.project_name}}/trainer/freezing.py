"""Freeze parts of a model, and thaw them on a schedule.

Frozen means that nothing about the part changes: its parameters get no gradient and are not in the optimizer (or,
if they thaw later, are passed over by it), and its modules stay in `eval()`, so that BatchNorm keeps its statistics
and Dropout lets everything through. What is frozen follows from the config and the epoch; there is no other state.
"""

from collections.abc import Iterator

from torch import nn

from utils.config import Config
from utils.errors import ConfigError
from utils.patterns import idle_patterns, selected


class Freezing:
    """Which parts of a model are frozen, and when they thaw."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        """Find what the patterns name.

        Raises:
            ConfigError: a pattern matches nothing, or something that is not frozen is to thaw.
        """
        self.model = model
        self.patterns = config.freeze
        self.thaws = config.unfreeze
        self._refuse_idle_patterns()
        self.set_epoch(0)

    def stage(self, name: str) -> int | None:
        """Say when a part is trainable.

        Args:
            name: of a module, parameter or buffer.

        Returns:
            0 for what is never frozen, `n` for what the n-th entry of `unfreeze` thaws, None for what stays frozen.
        """
        if not selected(name, self.patterns):
            return 0
        stages = (number for number, thaw in enumerate(self.thaws, 1) if selected(name, thaw.modules))
        return next(stages, None)

    def parameter_stages(self) -> dict[str, int | None]:
        """Return the stage of each parameter; one that is shared under several names thaws with its last one."""
        stages: dict[int, int | None] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            now, seen = self.stage(name), stages.get(id(parameter), 0)
            stages[id(parameter)] = None if now is None or seen is None else max(now, seen)
        return {name: stages[id(parameter)] for name, parameter in self.model.named_parameters()}

    def set_epoch(self, epoch: int) -> None:
        """Freeze and thaw as is due in an epoch, counted from 0."""
        thawed = [number for number, thaw in enumerate(self.thaws, 1) if thaw.epoch <= epoch + 1]
        self._open = {0, *thawed}
        parameters = dict(self.model.named_parameters())
        for name, stage in self.parameter_stages().items():
            parameters[name].requires_grad_(stage in self._open)
        self._frozen_modules = list(self._find_frozen_modules())

    def train_mode(self) -> None:
        """Put the model in `train()`, and what is frozen back in `eval()`."""
        self.model.train()
        for module in self._frozen_modules:
            module.training = False

    def is_frozen(self, name: str) -> bool:
        """Whether a module, parameter or buffer is frozen in the epoch that was set."""
        return self.stage(name) not in self._open

    def _find_frozen_modules(self) -> Iterator[nn.Module]:
        """Find the modules that a pattern names, and those all of whose parameters and buffers are frozen."""
        for name, module in self.model.named_modules():
            prefix = f"{name}." if name else ""
            state = [*module.named_parameters(), *module.named_buffers()]
            # A shared parameter may be frozen through its other name, so its flag counts, not this name.
            frozen = [not p.requires_grad for _, p in module.named_parameters()]
            frozen += [self.is_frozen(prefix + buffer) for buffer, _ in module.named_buffers()]
            if (name and self.is_frozen(name)) if not state else all(frozen):
                yield module

    def _refuse_idle_patterns(self) -> None:
        names = {name for name, _ in self.model.named_modules() if name}
        names |= {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        names |= {name for name, _ in self.model.named_buffers()}
        problems = [f"freeze.{number}: {text}" for number, text in idle_patterns(self.patterns, names)]
        frozen = {name for name in names if selected(name, self.patterns)}
        for entry, thaw in enumerate(self.thaws):
            for number, text in idle_patterns(thaw.modules, names):
                problems.append(f"unfreeze.{entry}.modules.{number}: {text}")
            if not problems and not any(selected(name, thaw.modules) for name in frozen):
                problems.append(f"unfreeze.{entry}.modules: found {thaw.modules}, of which `freeze` freezes nothing")
        if problems:
            raise ConfigError(problems)
