"""Text as tokens, without a vocabulary to learn: a token is a byte of UTF-8, and one more says where a text ends."""

import torch

END = 256
NUM_TOKENS = 257


def encode(text: bytes) -> torch.Tensor:
    """Turn a text into tokens `(bytes + 2,)`, the first and the last of them `END`.

    A model that is given a first `END` begins a text, and it says with an `END` of its own that a text is over.
    """
    return torch.tensor([END, *text, END])


def decode(tokens: list[int]) -> str:
    """Turn tokens into text. An `END` is shown as an empty line, and bytes that are not UTF-8 as �."""
    return b"".join(b"\n\n" if token == END else bytes([token]) for token in tokens).decode("utf-8", errors="replace")
