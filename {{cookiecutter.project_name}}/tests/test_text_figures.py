"""The pictures of a language model: losses that agree with PyTorch's own, and a run that is left as it was."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from data_loaders.byte_tokens import END, NUM_TOKENS, encode
from data_loaders.collate import pad_tokens
from data_loaders.loader import Loader, Loaders
from data_loaders.prose import TextDataset
from logger.contents import picture
from logger.observer import Observer
from logger.text_figures import TextFigures, characters, draw_texts
from model.transformer import Transformer
from trainer.trainer import StepResult, Trainer

TEXTS = ["한 €5\n", "a\tb", "longer than the others", "x" * 100, "y"]


def collected(run_dir: Path, scores_of: Callable[[torch.Tensor], torch.Tensor], **options: Any) -> TextFigures:
    """Show texts in batches of two."""
    figures = TextFigures(run_dir, **options)
    figures.reset()
    for begin in range(0, len(TEXTS), 2):
        tokens, targets = pad_tokens([encode(text.encode()) for text in TEXTS[begin : begin + 2]])
        result = StepResult(torch.zeros(len(tokens)), scores_of(tokens), targets)
        assert figures.fits((tokens, targets), result)
        figures.collect((tokens, targets), result)
    return figures


def random_scores(tokens: torch.Tensor) -> torch.Tensor:
    """Scores that depend on the token and nothing else."""
    return torch.randn(NUM_TOKENS, NUM_TOKENS, generator=torch.Generator().manual_seed(0))[tokens]


def test_the_loss_by_position_is_that_of_plain_pytorch(tmp_path: Path) -> None:
    axis = collected(tmp_path, random_scores).figures()["validation/loss_by_position"].axes[0]
    (xs, ys), (_, mean) = (np.asarray(line.get_data()) for line in axis.lines)
    by_position: dict[int, list[float]] = {}
    for text in TEXTS:
        tokens = encode(text.encode())
        losses = nn.functional.cross_entropy(random_scores(tokens[:-1]), tokens[1:], reduction="none")
        for position, loss in enumerate(losses.tolist()):
            by_position.setdefault(position, []).append(loss)
    expected = [sum(losses) / len(losses) for losses in by_position.values()]
    assert xs.tolist() == list(range(1, 102))
    assert ys.tolist() == pytest.approx(expected, rel=1e-5)
    everything = [loss for losses in by_position.values() for loss in losses]
    assert mean[0] == pytest.approx(sum(everything) / len(everything), rel=1e-5)


def test_bytes_become_characters_with_the_loss_of_all_their_bytes() -> None:
    tokens = [*encode("한a\n$\x1b".encode()).tolist()[1:], -100]
    losses = [1.0, 2.0, 4.0, 0.5, 0.25, 3.0, 5.0, 7.0, 9.0]
    expected = [("한", 7.0), ("a", 0.5), ("↵", 0.25), ("$", 3.0), ("·", 5.0), ("∎", 7.0)]
    assert list(characters(tokens, losses)) == expected
    assert list(characters([0xED, END], [1.0, 2.0])) == [("�", 3.0), ("∎", 0.0)]
    assert picture(draw_texts([[("a", math.nan), ("b", math.inf)]]))


def test_a_text_is_drawn_on_a_ground_of_its_losses() -> None:
    text = [(character, float(number % 5)) for number, character in enumerate("$x_$한" * 16)]
    (axis,) = draw_texts([text, text[:3]]).axes
    shown = "$x_$□" * 16  # for what the font lacks, lest all that follows be moved
    assert [each.get_text() for each in axis.texts] == [shown[:48], shown[48:], "", "$x_"]
    (image,) = axis.images
    assert np.asarray(image.get_array())[1, :32].tolist() == [loss for _, loss in text[48:80]]
    assert image.get_clim() == (0, math.log(257))


def test_the_longest_texts_are_shown(tmp_path: Path) -> None:
    figures = collected(tmp_path, random_scores, texts=1).figures()
    (axis,) = figures["validation/token_loss"].axes
    assert [each.get_text() for each in axis.texts] == ["longer than the others∎"]


def test_other_tokens_have_a_loss_by_position_alone_and_other_data_nothing(tmp_path: Path) -> None:
    figures = collected(tmp_path, lambda tokens: torch.zeros(*tokens.shape, 999))
    assert set(figures.figures()) == {"validation/loss_by_position"}
    assert figures.texts() == {}
    images, classes = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    assert not figures.fits((images, classes), StepResult(classes.float(), torch.zeros(2, 10), classes))
    assert not figures.fits((images,), StepResult(classes.float(), {"scores": images}, classes))


class Gallery(Observer):
    """Keeps what is drawn and written."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.texts: list[str] = []
        self.figures: list[str] = []

    def on_text(self, name: str, text: str, step: int) -> None:
        self.texts.append(text)

    def on_figure(self, name: str, figure: Figure, step: int) -> None:
        self.figures.append(name)


@pytest.fixture
def writer(tiny: Callable[..., Trainer]) -> Callable[..., Trainer]:
    """Makes trainers of a small Transformer with dropout."""

    def make(**settings: Any) -> Trainer:
        trainer = tiny(loss={"type": "token_cross_entropy"}, trainer={"epochs": 2} | settings)
        dataset = TextDataset([text.encode() for text in TEXTS], 16)
        train, valid = (Loader(dataset, 2, seed=1, shuffle=shuffle, collate_fn=pad_tokens) for shuffle in (True, False))
        torch.manual_seed(0)
        model = Transformer(max_length=16, width=8, depth=1, heads=2, dropout=0.2)
        made = type(trainer)(trainer.config, model, Loaders(train, valid, valid))
        made.open_run(trainer.saver.run_dir)
        return made

    return make


@pytest.mark.parametrize("settings", [{}, {"ema": 0.5}], ids=["", "averaged"])
def test_the_model_writes_as_it_was_evaluated_and_training_does_not_notice(
    writer: Callable[..., Trainer], settings: dict[str, Any]
) -> None:
    plain, watched = writer(**settings), writer(**settings)
    run_dir = watched.saver.run_dir
    figures, gallery = TextFigures(run_dir, every=1, length=40, prompt="a 한"), Gallery(run_dir)
    watched.observers.members |= {"figures": figures, "gallery": gallery}
    for trainer in (plain, watched):
        torch.manual_seed(3)
        trainer.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    assert gallery.figures == ["validation/loss_by_position", "validation/token_loss"] * 2
    assert len(gallery.texts) == 2
    assert gallery.texts[0] != gallery.texts[1], "the model has learned in between"
    assert all(text.startswith("a 한") for text in gallery.texts)
    # At the end of the run, what its checkpoint writes.
    model = Transformer(max_length=16, width=8, depth=1, heads=2).eval()
    model.load_state_dict(watched.state["model"].state_dict())
    figures._trainer.model, figures._trainer.average = model, None
    assert figures.texts() == {"validation/written": gallery.texts[1]}


def test_to_write_a_text_compiles_nothing(writer: Callable[..., Trainer]) -> None:
    """A text grows by a token at a time, and each length would be compiled by itself."""
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(inputs)
        return graph

    trainer = writer()
    trainer.model.compile(backend=backend, dynamic=False)
    figures = TextFigures(trainer.saver.run_dir, length=5)
    figures._trainer, figures._are_bytes = trainer, True
    trainer.model.eval()
    assert figures.texts()["validation/written"]
    assert compiled == []
    trainer.model(torch.zeros(1, 3, dtype=torch.long))
    assert compiled
