"""The authors' injection written out: token and position embedding are overwritten in transformers' CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from support import sd1
from torch import Tensor
from transformers import CLIPTokenizer

START, END = 49406, 49407
LENGTH = 77
S_STAR = (338, 265)  # the tokens of "S*"


class ReferenceCLIP:
    """CLIP-L of a checkpoint, with S* by overwriting."""

    def __init__(self, checkpoint: Path, tokenizer: Path | None = None) -> None:
        """Load text encoder and tokenizer; without a tokenizer only ids can be encoded."""
        self.model = sd1.load_text_encoder(checkpoint)
        self.text = getattr(self.model, "text_model", self.model)  # transformers 5 has no inner text_model
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer) if tokenizer else None

    def ids(self, text: str) -> list[int]:
        """Tokenize without start and end."""
        return list(self.tokenizer(text).input_ids[1:-1])

    @property
    def token_rows(self) -> Tensor:
        """The token embedding, shape (49408, 768)."""
        return self.text.embeddings.token_embedding.weight.detach()

    @torch.no_grad()
    def encode(self, content: Sequence[int | Tensor], skip: int = 1) -> Tensor:
        """Encode a chunk in which words of S* stand between token ids.

        `skip` 1 gives the last hidden state, 2 the one before, each after the final layer norm.
        """
        row = [START, *(END if isinstance(token, Tensor) else token for token in content), END]
        row += [END] * (LENGTH - len(row))

        def overwrite(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
            output = output.clone()
            for place, token in enumerate(content, start=1):
                if isinstance(token, Tensor):
                    output[:, place] = token
            return output

        handle = self.text.embeddings.register_forward_hook(overwrite)
        try:
            states = self.model(torch.tensor([row]), output_hidden_states=True).hidden_states
        finally:
            handle.remove()
        return self.text.final_layer_norm(states[-skip])

    def weighted(self, content: Sequence[int | Tensor], places: Sequence[int], weight: float) -> Tensor:
        """Encode as `encode`, with ComfyUI's emphasis at some places: away from the empty prompt."""
        states, empty = self.encode(content).clone(), self.encode([])
        for place in places:
            states[:, place] = (states[:, place] - empty[:, place]) * weight + empty[:, place]
        return states


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The difference's norm over the expected norm."""
    return float((found - expected).norm() / expected.norm())
