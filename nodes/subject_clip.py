"""A copy of a CLIP whose tokenizer replaces placeholders by the rows of S*.

The weights and the original CLIP are not modified.
"""

import logging
from typing import Any

import torch

from ..f2d.networks.mapping import Positional
from ..f2d.prompt.injection import CLASS_WORDS, Subject, check_placeholder, has_rows, inject_tokens, isolate

log = logging.getLogger("face2diffusion")

_FAMILIES = {  # of text encoders, by the keys of their tokens
    frozenset("lg"): "an SDXL CLIP",
    frozenset("g"): "an SDXL refiner CLIP",
    frozenset(("l", "g", "t5xxl")): "an SD3 CLIP",
    frozenset(("l", "t5xxl")): "a Flux CLIP",
    frozenset("h"): "an SD2 CLIP",
    frozenset("l"): "an SD1 CLIP",
}


class SubjectTokenizer:
    """A CLIP's tokenizer that also knows placeholders."""

    def __init__(
        self, base: Any, key: str, subjects: tuple[Subject, ...], position_embedding: torch.Tensor
    ) -> None:
        """Wrap a tokenizer.

        Args:
            base: ComfyUI's tokenizer of one CLIP.
            key: the key of the tokens that `base` returns: "l" in SD 1.x.
            subjects: the people whose placeholders prompts can use.
            position_embedding: shape (77, D), float32.
        """
        self.base, self.key, self.subjects, self.position_embedding = base, key, subjects, position_embedding

    @property
    def placeholders(self) -> list[str]:
        """The words that stand for the subjects in prompts."""
        return [subject.placeholder for subject in self.subjects]

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list]:
        """Tokenize as the base does, then replace the placeholders by the rows of S*."""
        tokens = self.base.tokenize_with_weights(isolate(text, self.placeholders), True, **kwargs)
        chunks = inject_tokens(tokens[self.key], self.subjects, self.position_embedding)
        if text.strip() and not has_rows(chunks):
            log.info(
                "No %s in this prompt, so it is encoded without the face: '%s'",
                " or ".join(self.placeholders),
                text,
            )
        return {self.key: chunks if return_word_ids else [[token[:2] for token in chunk] for chunk in chunks]}

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the base tokenizer."""
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


def inject_subject(
    clip: Any, placeholder: str, words: torch.Tensor, positional: Positional, strength: float
) -> Any:
    """Clone a CLIP and register a placeholder in the clone.

    Args:
        clip: ComfyUI's CLIP; may already have other placeholders.
        placeholder: the word for the person in prompts.
        words: shape (2, D), float32.
        positional: how the mapper was trained.
        strength: from 0 ("a person") to 1 (S*) and beyond.

    Returns:
        The clone.

    Raises:
        ValueError: the CLIP is not of SD 1.x, the words have another width, or the placeholder is
            invalid or taken.
    """
    known = clip.tokenizer if isinstance(clip.tokenizer, SubjectTokenizer) else None
    tokenizer = _plain_tokenizer(clip)
    placeholder = check_placeholder(placeholder)
    key, ids = _token_ids(tokenizer, placeholder)
    embeddings = _embeddings(clip, key, words)
    taken = {subject.token_ids: subject.placeholder for subject in known.subjects} if known else {}
    if ids in taken:
        raise ValueError(
            f"Expected a placeholder of its own for each person, got '{placeholder}' twice. "
            "Use 'S1*' and 'S2*', for instance."
        )
    class_rows = embeddings.token_embedding.weight[list(_token_ids(tokenizer, CLASS_WORDS)[1])].float().cpu()
    subject = Subject(placeholder, ids, words.cpu(), class_rows, positional, strength)
    clone = clip.clone()
    position_embedding = embeddings.position_embedding.weight.detach().float().cpu()
    clone.tokenizer = SubjectTokenizer(
        tokenizer, key, (*(known.subjects if known else ()), subject), position_embedding
    )
    return clone


def position_embedding(clip: Any, words: torch.Tensor) -> torch.Tensor:
    """Get a CLIP's position embedding.

    Args:
        clip: ComfyUI's CLIP.
        words: shape (2, D); must fit the CLIP.

    Returns:
        shape (77, D), float32.

    Raises:
        ValueError: the CLIP is not of SD 1.x, or has another width.
    """
    key, _ = _token_ids(_plain_tokenizer(clip), CLASS_WORDS)
    return _embeddings(clip, key, words).position_embedding.weight.detach().float().cpu()


def _plain_tokenizer(clip: Any) -> Any:
    return clip.tokenizer.base if isinstance(clip.tokenizer, SubjectTokenizer) else clip.tokenizer


def _token_ids(tokenizer: Any, text: str) -> tuple[str, tuple[int, ...]]:
    tokens = tokenizer.tokenize_with_weights(text, True)
    if len(tokens) != 1:
        family = _FAMILIES.get(frozenset(tokens), f"a CLIP with {', '.join(tokens)}")
        raise ValueError(
            f"Expected the CLIP of a Stable Diffusion 1.x checkpoint, got {family}. "
            "Face2Diffusion works with SD 1.x only."
        )
    key, chunks = next(iter(tokens.items()))
    return key, tuple(token for chunk in chunks for token, _, word in chunk if word)


def _embeddings(clip: Any, key: str, words: torch.Tensor) -> Any:
    """Return the module with the token and position embeddings, whose width must be that of the words."""
    encoder = getattr(clip.cond_stage_model, f"clip_{key}", None)
    embeddings: Any = getattr(
        getattr(getattr(encoder, "transformer", None), "text_model", None), "embeddings", None
    )
    width = embeddings.token_embedding.weight.shape[1] if hasattr(embeddings, "token_embedding") else None
    if width != words.shape[-1]:
        family = _FAMILIES.get(frozenset([key]), f"a text encoder of kind '{key}'")
        raise ValueError(
            f"Expected a CLIP {words.shape[-1]} wide (the mapper's words), "
            f"got {family} {width or 'without token embeddings'} wide. "
            "Use an SD 1.x checkpoint, or the mapper that was trained for this base model."
        )
    return embeddings
