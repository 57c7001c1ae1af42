"""A look inside the model while it learns: statistics of each layer, and what to be wary of."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import PositiveInt
from torch.utils.hooks import RemovableHandle

from logger.console import log
from logger.observer import AppendOnlyFiles, Observer
from utils.distributed import world_size
from utils.errors import Diverged
from utils.layer_probe import LayerProbe
from utils.replaying import replay, torch_random

if TYPE_CHECKING:
    from trainer.trainer import Trainer

FAR = 1e4  # the factor between two layers' gradients from which one is said to vanish, or to explode
DEAD = 0.25  # the share of a layer's units


class LayerWatch(Observer):
    """Measures the first step and every hundredth after it; writes `layers.jsonl` and `plots/layers.png`.

    When a loss is not finite, the step is taken once more to find the module where that began, and its batch is
    kept in `bad_batch.pth`, for `replay.py`.
    """

    def __init__(self, run_dir: Path, every: PositiveInt = 100) -> None:
        """Watch a run.

        Args:
            run_dir: the run's folder.
            every: steps between two that are measured.
        """
        super().__init__(run_dir)
        self.every = every
        self.path = run_dir / "layers.jsonl"
        self._files = AppendOnlyFiles(run_dir, self.path.name)
        self._hooks: list[RemovableHandle] = []
        self._random: dict[int, dict[str, Any]] = {}
        self._measured: dict[str, int] | None = None
        self._told: set[str] = set()

    def on_start(self, trainer: "Trainer") -> None:
        """Set the two hooks that see each training step begin and end."""
        self.probe = LayerProbe(trainer.model)
        self.trainer = trainer
        begin = trainer.model.register_forward_pre_hook(self._before_forward)
        self._hooks = [begin, trainer.optimizer.register_step_post_hook(self._finish)]

    def _before_forward(self, module: torch.nn.Module, inputs: Any) -> None:
        progress = self.trainer.progress
        if not module.training or progress.step in self._random:  # a step may call the model several times
            return
        # Losses are read every `log_every` steps: so far back a step may have to be repeated.
        self._random[progress.step] = torch_random(self.trainer.device)
        self._random.pop(progress.step - self.trainer.config.trainer.log_every, None)
        if progress.step % self.every == 0:
            self.probe.__enter__()
            self._measured = {"epoch": progress.epoch + 1, "step": progress.step + 1}

    def _finish(self, *_: Any) -> None:
        """Write down the step that was measured, if it was, and remove its hooks."""
        if self._measured is None:
            return
        self.probe.__exit__()
        place, layers = self.probe.first_not_finite(), self.probe.read()
        line = {**self._measured, "layers": layers}
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")
        self._measured = None
        warnings = [f"a value that is NaN or infinite arises {place}"] if place else warnings_about(layers)
        for text in warnings:
            if text not in self._told:
                log.warning("step %d: %s", line["step"], text)
                self._told.add(text)

    def on_failure(self, trainer: "Trainer", error: Diverged) -> None:
        """Repeat the step whose loss was not finite, name the module where that began, and keep the batch."""
        self.probe.__exit__()
        self._measured = None
        if world_size() > 1:
            return  # the step is one of all processes, and only this one watches
        if error.ago is None:
            bad = [name for name, value in trainer.model.named_parameters() if not value.isfinite().all()]
            log.error("not finite: %s; to find the step: loggers.layer_watch.every=1, from the last checkpoint", bad)
            return
        number, step = trainer.progress.batch - error.ago, trainer.progress.step - error.ago
        batch, indices = trainer.loaders.train.load_batch(number)
        state = {
            "config": trainer.config.model_dump(mode="json", by_alias=True),
            "model": trainer.model.state_dict(),
            "random": self._random.get(step, {}),
            "batch": batch,
            "indices": indices,
            "epoch": trainer.progress.epoch,
            "step": step,
        }
        file = self.run_dir / "bad_batch.pth"
        torch.save(state, file)
        log.error("%s\nto see it again: python replay.py %s", replay(trainer, state["batch"], state["random"]), file)

    def on_end(self, trainer: "Trainer") -> None:
        """Draw how the layers fared."""
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        draw(lines, self.run_dir / "plots" / "layers.png")

    def close(self) -> None:
        """Remove every hook."""
        for hook in self._hooks:
            hook.remove()
        if self._hooks:
            self.probe.__exit__()

    def sync(self) -> None:
        """See the file to the disk."""
        self._files.sync()

    def state_dict(self) -> dict[str, Any]:
        """Return the file's length."""
        return {"sizes": self._files.sizes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Drop lines that were written after the checkpoint."""
        self._files.cut_back(state["sizes"])


def warnings_about(layers: dict[str, dict[str, Any]]) -> list[str]:
    """Name the layers whose gradients vanish or explode, seen from the last layer, and those with many dead units."""
    found = []
    gradients = {name: entry["weight_gradient"] for name, entry in layers.items() if "weight_gradient" in entry}
    last = next(reversed(gradients.values()), 0.0)
    for name, gradient in gradients.items():
        if gradient * FAR < last:
            found.append(f"{name}: the gradient vanishes: it is {FAR:g} times smaller than that of the last layer")
        elif gradient > last * FAR:
            found.append(f"{name}: the gradient explodes: it is {FAR:g} times larger than that of the last layer")
    for name, entry in layers.items():
        if entry.get("dead", 0) > DEAD * entry.get("units", 1):
            found.append(f"{name}: more than {DEAD:.0%} of its units are dead: 0 for every sample of the batch")
    return found


def draw(lines: list[dict[str, Any]], file: Path) -> None:
    """Draw size of outputs and of gradients, a row for each layer and a column for each measured step."""
    from matplotlib.figure import Figure

    names = [name for name, entry in lines[-1]["layers"].items() if "std" in entry] if lines else []
    if not names:
        return
    figure = Figure(figsize=(10, 1.5 + 0.25 * len(names)), layout="constrained")
    titles = {"std": "outputs: standard deviation", "gradient": "gradients of outputs: root mean square"}
    for axis, (key, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        columns = [[line["layers"].get(name, {}).get(key, float("nan")) for line in lines] for name in names]
        values = torch.tensor(columns, dtype=torch.float64).clamp(min=1e-12).log10()
        image = axis.imshow(values.numpy(), aspect="auto", interpolation="nearest")
        steps = [line["step"] for line in lines]
        ticks = range(0, len(steps), max(1, len(steps) // 6))
        axis.set(title=title, xlabel="step", yticks=range(len(names)), yticklabels=names)
        axis.set_xticks(ticks, [str(steps[tick]) for tick in ticks])
        figure.colorbar(image, ax=axis, label="power of ten")
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110)
