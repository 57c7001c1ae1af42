"""TensorBoard: `tensorboard --logdir saved`."""

import struct
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from logger.console import log
from logger.contents import epoch_tags, hyperparameters, is_due, picture, step_tags, weights_and_gradients
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
        # Imported here because it takes a third of a second, and only training needs it.
        from torch.utils.tensorboard import SummaryWriter

        self.histograms_every = histograms_every
        self._files = AppendOnlyFiles(run_dir, "events.out.tfevents.*")
        self._new_writer = SummaryWriter
        self._writer: Any = None

    def on_start(self, trainer: "Trainer") -> None:
        """Open a new event file."""
        self._trainer = trainer
        # A TensorBoard that is open while the run is resumed also forgets what was cut off.
        self._writer = self._new_writer(str(self.run_dir), purge_step=trainer.progress.step + 1)
        if trainer.progress.step == 0:
            self._introduce(trainer)

    def _introduce(self, trainer: "Trainer") -> None:
        """Write what is known before the first step."""
        config = trainer.config.model_dump_json(by_alias=True, indent=2)
        self._writer.add_text("config", "```json\n" + config + "\n```", 0)
        self._writer.add_text("parameter groups", trainer.describe_groups().replace("\n", "\n\n"), 0)
        quantities = ["loss", *trainer.metrics.per_sample, *trainer.metrics.collected]
        self._writer.add_custom_scalars(_layout(quantities))
        self._writer.file_writer.add_summary(_hyperparameters(hyperparameters(trainer.config))[0])
        try:
            self._writer.file_writer.add_graph(model_graph(trainer))
        except Exception as error:  # the tracer of torch may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.info("TensorBoard will show no graph of the model: it cannot be traced (%s)", reason)

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """Write the means since the last entry, and histograms when they are due."""
        self._write(step_tags(scalars), step)
        if is_due(step, self._trainer.config.trainer.log_every, self.histograms_every):
            from torch.utils.tensorboard.summary import histogram

            found = weights_and_gradients(self._trainer.model)
            self._add([value for name, numbers in found for value in histogram(name, numbers, _BINS).value], step)

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Write the epoch's scalars."""
        self._write(epoch_tags(scalars, self._trainer.monitor), step)

    def _write(self, tags: dict[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped,unused-ignore]

        self._add([Summary.Value(tag=tag, simple_value=value) for tag, value in tags.items()], step)

    def _add(self, values: list[Any], step: int) -> None:
        """Write values as one event: each event waits in a queue and is checksummed by itself."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped,unused-ignore]

        self._writer.file_writer.add_summary(Summary(value=values), step)

    def on_figure(self, name: str, figure: "Figure", step: int) -> None:
        """Write a picture."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped,unused-ignore]

        # Not by `add_figure`, which draws with pyplot, and once more for every tracker.
        png = picture(figure)
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._add([Summary.Value(tag=name, image=image)], step)

    def on_text(self, name: str, text: str, step: int) -> None:
        """Write a text, which TensorBoard takes for Markdown: indented, it is shown as it is."""
        self._writer.add_text(name, indent(text, "    ", lambda _: True), step)

    def on_end(self, trainer: "Trainer") -> None:
        """Mark the run as finished in the table of hyperparameters."""
        self._writer.file_writer.add_summary(_hyperparameters({})[1])

    def close(self) -> None:
        """Write what is waiting."""
        if self._writer is not None:
            # The last checkpoint saw everything before it written; an error now must not hide why the run ends.
            with suppress(OSError):
                self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the lengths of the event files, after seeing them written."""
        if self._writer is not None:
            self._writer.flush()
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
