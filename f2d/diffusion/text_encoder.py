"""Prompts through CLIP's text encoder, with rows in place of some of its token embeddings (Fig. 3b).

Dimension letters: B prompts, N tokens of a prompt with padding (77), D width of the text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..prompt.injection import Token
from ..prompt.weights import split_weights


@dataclass(frozen=True, eq=False)
class PromptEncoder:
    """CLIP's tokenizer and text encoder."""

    tokenizer: Any  # of transformers
    text_encoder: Any  # transformers' CLIPTextModel

    @property
    def token_embedding(self) -> nn.Embedding:
        """The module that turns token ids into embeddings."""
        return text_embeddings(self.text_encoder).token_embedding

    @property
    def position_embedding(self) -> Tensor:
        """The position embedding: shape (N, D), with the text encoder's precision and device."""
        return text_embeddings(self.text_encoder).position_embedding.weight

    @property
    def width(self) -> int:
        """D: 768 in SD 1.x, 1024 in SD 2.x."""
        return self.position_embedding.shape[1]

    def content_ids(self, text: str) -> list[int]:
        """Tokenize a text, without start and end token."""
        return list(self.tokenizer(text).input_ids[1:-1])

    def pad(self, content: list[int]) -> list[int]:
        """Pad a tokenized prompt to the length that the text encoder needs.

        Args:
            content: at most N - 2 token ids, of `content_ids`.

        Returns:
            N token ids: start, the prompt, end, padding.

        Raises:
            ValueError: the prompt is too long.
        """
        padding = len(self.position_embedding) - 2 - len(content)
        if padding < 0:
            raise prompt_too_long(len(content), len(content) + padding)
        tokenizer = self.tokenizer
        ids = [tokenizer.bos_token_id, *content, tokenizer.eos_token_id]
        return ids + [tokenizer.pad_token_id] * padding

    def tokenize(self, prompt: str) -> list[Token]:
        """Tokenize a prompt with weights, as ComfyUI does: what has one weight is a text of its own.

        Args:
            prompt: at most N - 2 tokens.

        Returns:
            N tokens (id, weight, number of the text from 1; 0 = start, end or padding).

        Raises:
            ValueError: the prompt is too long.
        """
        content = [
            (token, weight, number)
            for number, (text, weight) in enumerate(split_weights(prompt), start=1)
            for token in self.content_ids(text)
        ]
        ids = self.pad([token for token, *_ in content])
        after = [(token, 1.0, 0) for token in ids[len(content) + 1 :]]
        return [(ids[0], 1.0, 0), *content, *after]

    def apply_weights(self, encoded: Tensor, weights: Sequence[float]) -> Tensor:
        """Move each token's encoding away from, or towards, the one at its place in the empty prompt.

        Args:
            encoded: shape (B, N, D), of `encode`.
            weights: N; 1 = as it is.

        Returns:
            shape (B, N, D).
        """
        places = [place for place, weight in enumerate(weights) if weight != 1]
        if not places:
            return encoded
        empty = self.encode(torch.tensor([self.pad([])]))[:, places]
        factors = encoded.new_tensor([weights[place] for place in places])[:, None]
        encoded = encoded.clone()
        encoded[:, places] = empty + factors * (encoded[:, places] - empty)
        return encoded

    def encode(self, ids: Tensor, index: Any = None, rows: Tensor | None = None) -> Tensor:
        """Encode token ids; gradients flow into the rows.

        Args:
            ids: shape (B, N), of `pad`.
            index: where rows stand in place of token embeddings: any index of a tensor of shape (B, N).
            rows: shape (..., D), as the index selects; None = none.

        Returns:
            shape (B, N, D): the last hidden state after the final layer norm.
        """
        ids = ids.to(self.position_embedding.device)
        if rows is None:
            return self.text_encoder(ids)[0]
        with inserted_rows(self.token_embedding, index, rows):
            return self.text_encoder(ids)[0]


def text_embeddings(text_encoder: Any) -> Any:
    """Get the embedding module of a CLIPTextModel; transformers 5 has no inner text_model."""
    return getattr(text_encoder, "text_model", text_encoder).embeddings


def prompt_too_long(count: int, limit: int) -> ValueError:
    """Build the error for a prompt that is too long for the text encoder."""
    return ValueError(
        f"The prompt has {count} tokens; the text encoder takes at most {limit}. Shorten it, or use ComfyUI, "
        "which takes longer ones."
    )


@contextmanager
def inserted_rows(token_embedding: nn.Module, index: Any, rows: Tensor) -> Iterator[None]:
    """Let a text encoder see rows in place of token embeddings while the block runs.

    Args:
        token_embedding: its embedding module, with output of shape (B, N, D).
        index: any index of a tensor of shape (B, N).
        rows: shape (..., D), as the index selects, or one that broadcasts to it; gradients flow through.

    Yields:
        Nothing.
    """

    def insert(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[index] = rows.to(output)
        return output

    handle = token_embedding.register_forward_hook(insert)
    try:
        yield
    finally:
        handle.remove()
