"""A CLIP that knows S*: its tokenizer puts rows in place of placeholders; weights and the original CLIP stay untouched."""

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
    """Wraps a CLIP's tokenizer."""

    def __init__(
        self, base: Any, key: str, subjects: tuple[Subject, ...], position_embedding: torch.Tensor
    ) -> None:
        """Wrap.

        Args:
            base: ComfyUI's tokenizer of one CLIP.
            key: under which `base` returns its tokens: "l" in SD 1.x.
            subjects: who may be in a prompt.
            position_embedding: shape (77, D), float32.
        """
        self.base, self.key, self.subjects, self.position_embedding = base, key, subjects, position_embedding

    @property
    def placeholders(self) -> list[str]:
        """What stands for the subjects in a prompt."""
        return [subject.placeholder for subject in self.subjects]

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list]:
        """Tokenize as the base does, then put the rows of S* in place of the placeholders."""
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
        """Pass on everything else that other nodes ask of a tokenizer."""
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


def inject_subject(
    clip: Any, placeholder: str, words: torch.Tensor, positional: Positional, strength: float
) -> Any:
    """Clone a CLIP and teach the clone a placeholder.

    Args:
        clip: ComfyUI's CLIP; may already know other placeholders.
        placeholder: what the prompt says for the person.
        words: shape (2, D), float32.
        positional: how the mapper was trained.
        strength: from 0 ("a person") to 1 (S*) and beyond.

    Returns:
        The clone.

    Raises:
        ValueError: another family of text encoders, words of another width, or a placeholder that is bad or taken.
    """
    known = clip.tokenizer if isinstance(clip.tokenizer, SubjectTokenizer) else None
    tokenizer = _plain_tokenizer(clip)
    placeholder = check_placeholder(placeholder)
    key, ids = _token_ids(tokenizer, placeholder)
    embeddings = _embeddings(clip, key, words)
    taken = {subject.token_ids: subject.placeholder for subject in known.subjects} if known else {}
    if ids in taken:
        raise ValueError(
            f"Expected a placeholder of its own for each person, got '{placeholder}' twice. Use 'S1*' and 'S2*', for instance."
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
        ValueError: another family of text encoders, or one of another width.
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
            f"Expected the CLIP of a Stable Diffusion 1.x checkpoint, got {family}. Face2Diffusion works with SD 1.x only."
        )
    key, chunks = next(iter(tokens.items()))
    return key, tuple(token for chunk in chunks for token, _, word in chunk if word)


def _embeddings(clip: Any, key: str, words: torch.Tensor) -> Any:
    """Get the module with the token and position embeddings; check that the words fit."""
    encoder = getattr(clip.cond_stage_model, f"clip_{key}", None)
    embeddings: Any = getattr(
        getattr(getattr(encoder, "transformer", None), "text_model", None), "embeddings", None
    )
    width = embeddings.token_embedding.weight.shape[1] if hasattr(embeddings, "token_embedding") else None
    if width != words.shape[-1]:
        family = _FAMILIES.get(frozenset([key]), f"a text encoder of kind '{key}'")
        raise ValueError(
            f"Expected a CLIP {words.shape[-1]} wide (the mapper's words), got {family} {width or 'without token embeddings'} wide. "
            "Use an SD 1.x checkpoint, or the mapper that was trained for this base model."
        )
    return embeddings
