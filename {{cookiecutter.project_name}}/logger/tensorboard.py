"""TensorBoard: `tensorboard --logdir saved`."""

import struct
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from logger.console import log
from logger.contents import epoch_tags, hyperparameters, is_due, picture, step_tags, weights_and_gradients
from logger.event_file import EVENT_FILES, EventFile
from logger.model_graph import model_graph
from logger.observer import AppendOnlyFiles, Observer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.trainer import Trainer

# TensorBoard shows no more of a histogram, and to write one takes time in proportion.
_BINS = 30


class TensorBoard(Observer):
    """Curves, histograms, pictures, the config and the graph of the model.

    The tab Custom Scalars has the curves that matter, training and validation on one chart.
    """

    def __init__(self, run_dir: Path, histograms_every: PositiveInt | None = 200) -> None:
        """Write event files into `run_dir`.

        Args:
            run_dir: the run's folder.
            histograms_every: training steps between two histograms of weights and gradients (rounded up to a
                multiple of `trainer.log_every`); None draws none.
        """
        super().__init__(run_dir)
        self.histograms_every = histograms_every
        self._files = AppendOnlyFiles(run_dir, EVENT_FILES)
        self._file: EventFile | None = None

    def on_start(self, trainer: "Trainer") -> None:
        """Open a new event file."""
        self._trainer = trainer
        self._file = EventFile(self.run_dir, trainer.progress.step + 1)
        if trainer.progress.step == 0:
            self._introduce(trainer)

    def _introduce(self, trainer: "Trainer") -> None:
        """Write what is known before the first step."""
        from torch.utils.tensorboard.summary import custom_scalars, text

        config = trainer.config.model_dump_json(by_alias=True, indent=2)
        self._add(summary=text("config", "```json\n" + config + "\n```"))
        self._add(summary=text("parameter groups", trainer.describe_groups().replace("\n", "\n\n")))
        quantities = ["loss", *trainer.metrics.per_sample, *trainer.metrics.collected]
        self._add(summary=custom_scalars(_layout(quantities)))
        self._add(summary=_hyperparameters(hyperparameters(trainer.config))[0])
        try:
            self._add(graph_def=model_graph(trainer).SerializeToString())
        except Exception as error:  # the tracer of torch may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.info("TensorBoard will show no graph of the model: it cannot be traced (%s)", reason)

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """Write the means since the last entry, and histograms when they are due."""
        self._write(step_tags(scalars), step)
        if is_due(step, self._trainer.config.trainer.log_every, self.histograms_every):
            from torch.utils.tensorboard.summary import histogram

            found = weights_and_gradients(self._trainer.model)
            values = [value for name, numbers in found for value in histogram(name, numbers, _BINS).value]
            self._add(step=step, summary={"value": values})

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Write the epoch's scalars."""
        self._write(epoch_tags(scalars, self._trainer.monitor), step)

    def on_figure(self, name: str, figure: "Figure", step: int) -> None:
        """Write a picture."""
        # Not by `SummaryWriter.add_figure`, which draws with pyplot, and once more for every tracker.
        png = picture(figure)
        width, height = struct.unpack(">II", png[16:24])
        image = {"width": width, "height": height, "colorspace": 4, "encoded_image_string": png}
        self._add(step=step, summary={"value": [{"tag": name, "image": image}]})

    def on_text(self, name: str, text: str, step: int) -> None:
        """Write a text, which TensorBoard takes for Markdown: indented, it is shown as it is."""
        from torch.utils.tensorboard import summary

        self._add(step=step, summary=summary.text(name, indent(text, "    ", lambda _: True)))

    def on_end(self, trainer: "Trainer") -> None:
        """Mark the run as finished in the table of hyperparameters."""
        self._add(summary=_hyperparameters({})[1])

    def _write(self, tags: dict[str, float], step: int) -> None:
        # As one event: each is checksummed by itself, in Python.
        self._add(step=step, summary={"value": [{"tag": tag, "simple_value": tags[tag]} for tag in tags]})

    def _add(self, **content: Any) -> None:
        assert self._file is not None, "a run is watched from `on_start` on"
        self._file.add(**content)

    def close(self) -> None:
        """Close the event file."""
        if self._file is not None:
            # The last checkpoint saw everything before it written; an error now must not hide why the run ends.
            with suppress(OSError):
                self._file.close()

    def sync(self) -> None:
        """See the event files to the disk."""
        self._files.sync()

    def state_dict(self) -> dict[str, Any]:
        """Return the lengths of the event files."""
        return {"sizes": self._files.sizes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Drop events that were written after the checkpoint."""
        self._files.cut_back(state["sizes"])


def _layout(quantities: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Lay out the tab Custom Scalars: title of a section, title of a chart, and the curves in it."""
    charts = {quantity: [f"{quantity}/train", f"{quantity}/val"] for quantity in quantities}
    return {
        "training and validation": {title: ["Multiline", tags] for title, tags in charts.items()},
        "optimization": {
            "loss within epochs": ["Multiline", ["steps/train_loss"]],
            "learning rate": ["Multiline", ["steps/lr.*"]],
            "norm of the gradient": ["Multiline", ["steps/grad_norm"]],
        },
        "machine": {
            "samples per second": ["Multiline", ["steps/samples_per_second"]],
            "share of time spent waiting for data": ["Multiline", ["steps/data_wait"]],
            "most memory used so far (MB)": ["Multiline", ["steps/memory.*"]],
        },
    }


def _hyperparameters(values: dict[str, float | str]) -> tuple[Any, Any]:
    """Make two entries for the tab HParams: the values of a run, and that it has come to its end.

    `SummaryWriter.add_hparams` would put them into a folder of its own, as another run. It would also write down which
    columns the table has; without that, TensorBoard takes those of all runs, and shows first what differs.
    """
    from torch.utils.tensorboard.summary import hparams

    _, start, end = hparams(values, {})
    return start, end
