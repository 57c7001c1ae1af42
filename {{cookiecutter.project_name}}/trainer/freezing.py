"""Freeze parts of a model, and thaw them on a schedule.

Frozen means that nothing about the part changes: its parameters get no gradient and are not in the optimizer (or,
if they thaw later, are passed over by it), and its modules stay in `eval()`, so that BatchNorm keeps its statistics
and Dropout lets everything through. What is frozen follows from the config and the epoch; there is no other state.
"""

from collections.abc import Iterator

from torch import nn

from utils.config import Config
from utils.errors import ConfigError
from utils.patterns import all_names, idle_patterns, selected


class Freezing:
    """Which parts of a model are frozen, and when they thaw.

    What is shared under several names is frozen as long as one of them is. A parameter that the model itself keeps
    out of training, by `requires_grad=False`, stays out of it whatever the config says.
    """

    def __init__(self, config: Config, model: nn.Module) -> None:
        """Find what the patterns name.

        Raises:
            ConfigError: a pattern matches nothing, or something that is not frozen is to thaw.
        """
        self.model = model
        self.patterns = config.freeze
        self.thaws = config.unfreeze
        self._fixed = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
        self._open: set[int] = set()
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
        parameters = dict(self.model.named_parameters())
        stages: dict[str, int | None] = {}
        for name, names in all_names(self.model.named_parameters(remove_duplicate=False)).items():
            every = [self.stage(each) for each in names]
            thawing = [stage for stage in every if stage is not None]
            stays = len(thawing) < len(every) or id(parameters[name]) in self._fixed
            stages[name] = None if stays else max(thawing, key=self._first_epoch)
        return stages

    def _first_epoch(self, stage: int) -> int:
        return self.thaws[stage - 1].epoch if stage else 0

    def set_epoch(self, epoch: int) -> None:
        """Freeze and thaw as is due in an epoch, counted from 0."""
        opened = {0} | {number for number, thaw in enumerate(self.thaws, 1) if thaw.epoch <= epoch + 1}
        if opened != self._open:
            self._open = opened
            tensors = [
                *self.model.named_parameters(remove_duplicate=False),
                *self.model.named_buffers(remove_duplicate=False),
            ]
            self._frozen = {id(tensor) for name, tensor in tensors if self.is_frozen(name)}
            self._frozen_modules = list(self._find_frozen_modules(self._frozen))
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) not in self._frozen and id(parameter) not in self._fixed)
            if not parameter.requires_grad:
                parameter.grad = None  # of an earlier training of this model; it would count when gradients are clipped

    def train_mode(self) -> None:
        """Put the model in `train()`, and what is frozen back in `eval()`."""
        self.model.train()
        for module in self._frozen_modules:
            module.training = False

    def is_frozen(self, name: str) -> bool:
        """Whether what has this name, a module, parameter or buffer, is frozen in the epoch that was set."""
        return self.stage(name) not in self._open

    def _find_frozen_modules(self, frozen: set[int]) -> Iterator[nn.Module]:
        """Find the modules that must not be in `train()`; `frozen` has the ids of frozen parameters and buffers.

        They are those of which a buffer is frozen, as it is in `train()` that a module writes into its buffers; those
        all of whose parameters and buffers are frozen; and of those that have neither, the ones that a pattern names.
        """
        modules = dict(self.model.named_modules())
        for first, names in all_names(self.model.named_modules(remove_duplicate=False)).items():
            module = modules[first]
            state = [*module.parameters(), *module.buffers()]
            whole = all(id(tensor) in frozen for tensor in state) if state else all(map(self.is_frozen, names))
            if whole or any(id(buffer) in frozen for buffer in module.buffers(recurse=False)):
                yield module

    def _refuse_idle_patterns(self) -> None:
        names = {name for name, _ in self.model.named_modules(remove_duplicate=False) if name}
        names |= {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        names |= {name for name, _ in self.model.named_buffers(remove_duplicate=False)}
        problems = [f"freeze.{number}: {text}" for number, text in idle_patterns(self.patterns, names)]
        stages = {self.stage(name) for name in names}
        for entry, thaw in enumerate(self.thaws):
            for number, text in idle_patterns(thaw.modules, names):
                problems.append(f"unfreeze.{entry}.modules.{number}: {text}")
            if not problems and entry + 1 not in stages:
                idle = "`freeze` freezes nothing, or earlier entries thaw all of it"
                problems.append(f"unfreeze.{entry}.modules: found {thaw.modules}, of which {idle}")
        if problems:
            raise ConfigError(problems)
