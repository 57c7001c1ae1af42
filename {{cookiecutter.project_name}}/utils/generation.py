"""Text from a language model, drawn token by token."""

import torch
from torch import nn


@torch.no_grad()
def generate(
    model: nn.Module,
    tokens: list[int],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    stop: int | None = None,
) -> list[int]:
    """Continue a sequence of tokens.

    Args:
        model: takes tokens `(1, length)` with a length of up to its `max_length`, and returns scores of the next ones.
        tokens: how the sequence begins, 1 token or more.
        length: tokens to write.
        temperature: scores are divided by it; near 0 the likeliest token is always chosen.
        top_k: choose among so many of the likeliest tokens; None chooses among all.
        seed: the same seed gives the same tokens; the global generators have no part in it.
        stop: stop after the first of these tokens; None goes on.

    Returns:
        The new tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters(), torch.empty(0)).device
    written: list[int] = []
    while len(written) < length and not (written and written[-1] == stop):
        context = (tokens + written)[-model.max_length :]  # type: ignore[operator]
        scores = model(torch.tensor([context], device=device))[0, -1].float().cpu() / temperature
        if top_k is not None and top_k < len(scores):
            scores[scores < scores.topk(top_k).values[-1]] = -torch.inf
        written.append(int(torch.multinomial(scores.softmax(dim=0), 1, generator=generator)))
    return written
