"""A small Transformer that predicts the next token.

The decoder of Vaswani et al., "Attention Is All You Need", 2017, with normalisation before each part as in Radford et
al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.nn import functional

from utils.errors import UserError


class Attention(nn.Module):
    """Each position gathers from itself and those before it, in several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Build the projections to queries, keys and values, and back."""
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn `(n, length, width)` into the same shape."""
        n, length, width = x.shape
        # Three tensors of shape (n, heads, length, width / heads).
        q, k, v = self.to_qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Padding stands at the end, and no position looks ahead: so none that counts ever sees padding, and the
        # causal mask is all that is needed.
        gathered = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.dropout(self.project(gathered.transpose(1, 2).reshape(n, length, width)))
        return out


class Block(nn.Module):
    """Attention and a network of two layers, each adding to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Build both parts."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn `(n, length, width)` into the same shape."""
        x = x + self.attention(self.norm1(x))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Embeddings of tokens and positions, a stack of blocks, and a score for each token that may come next."""

    def __init__(
        self,
        num_tokens: PositiveInt = 257,
        max_length: PositiveInt = 128,
        width: PositiveInt = 64,
        depth: PositiveInt = 2,
        heads: PositiveInt = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        tie_weights: bool = True,
    ) -> None:
        """Build the network.

        Args:
            num_tokens: different tokens; 257 where they are bytes and an end of text.
            max_length: the longest sequence that it can take.
            width: numbers that stand for a token on its way through the blocks; a multiple of `heads`.
            depth: blocks.
            heads: attention heads of a block.
            dropout: share of the values that are left out in a training step, after each part of a block.
            tie_weights: let a token's score be the product with its embedding, which saves `num_tokens * width`
                weights (Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017).

        Raises:
            UserError: `width` cannot be divided among the heads.
        """
        super().__init__()
        if width % heads:
            raise UserError(f"model.args.width: {width} cannot be divided among {heads} heads")
        self.max_length = max_length
        self.tokens = nn.Embedding(num_tokens, width)
        self.positions = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = None if tie_weights else nn.Linear(width, num_tokens, bias=False)
        self._initialize()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Turn token numbers `(n, length)` into scores (logits) of what comes next `(n, length, num_tokens)`.

        Raises:
            UserError: the sequence is longer than `max_length`.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise UserError(
                f"a sequence of {length} tokens is too long for this model: model.args.max_length is {self.max_length}"
            )
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        x = self.norm(self.blocks(self.dropout(x)))
        return functional.linear(x, self.tokens.weight if self.head is None else self.head.weight)

    def _initialize(self) -> None:
        """Start as GPT-2 does: small numbers, smaller still where a block adds to the sum of those before it."""
        for name, parameter in self.named_parameters():
            if name.endswith(("project.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * len(self.blocks)))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
