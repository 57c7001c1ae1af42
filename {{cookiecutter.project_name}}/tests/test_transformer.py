"""The Transformer: it looks back and never ahead, and says what it cannot take."""

import pytest
import torch

from model.transformer import Transformer
from utils.errors import UserError


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(num_tokens=20, max_length=12, width=16, depth=2, heads=2).eval()


def test_every_position_gets_a_score_for_each_token(model: Transformer) -> None:
    assert model(torch.randint(20, (3, 7))).shape == (3, 7, 20)


def test_a_token_changes_what_comes_after_it_and_nothing_before(model: Transformer) -> None:
    tokens = torch.randint(20, (1, 12))
    scores = model(tokens)
    for place in range(12):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 20
        same = (model(changed) == scores).all(dim=-1)[0]
        assert same[:place].all()
        assert not same[place:].any()


def test_padding_and_neighbours_in_the_batch_change_nothing(model: Transformer) -> None:
    tokens = torch.randint(20, (3, 12))
    short = torch.nn.functional.pad(tokens[:1, :5], (0, 7))
    together = model(torch.cat([short, tokens[1:]]))
    torch.testing.assert_close(together[:1, :5], model(tokens[:1, :5]))


def test_the_same_token_means_something_else_at_another_place(model: Transformer) -> None:
    scores = model(torch.full((1, 12), 3))
    assert not torch.allclose(scores[0, 0], scores[0, 1])


def test_a_new_model_favours_no_token(model: Transformer) -> None:
    chances = model(torch.randint(20, (8, 12))).softmax(dim=-1)
    assert (chances - 1 / 20).abs().max() < 0.03


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_one_matrix(tied: bool) -> None:
    model = Transformer(num_tokens=20, width=16, heads=2, tie_weights=tied)
    names = [name for name, value in model.named_parameters() if value.shape == (20, 16)]
    assert names == (["tokens.weight"] if tied else ["tokens.weight", "head.weight"])
    scores = model(torch.zeros(1, 4, dtype=torch.int64))
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_a_block_adds_starts_smaller_the_deeper_the_stack() -> None:
    model = Transformer(width=64, depth=8)
    stds = {name: value.std().item() for name, value in model.named_parameters() if value.ndim == 2}
    added = {name for name in stds if name.endswith(("project.weight", "mlp.2.weight"))}
    assert len(added) == 16
    assert all(stds[name] == pytest.approx(0.02 / 4 if name in added else 0.02, rel=0.1) for name in stds)


def test_a_sequence_that_is_too_long_is_told_so(model: Transformer) -> None:
    with pytest.raises(UserError, match=r"sequence of 13 tokens is too long.*model\.args\.max_length is 12"):
        model(torch.zeros(1, 13, dtype=torch.int64))


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.args\.width: 16 cannot be divided among 3 heads"):
        Transformer(width=16, heads=3)
