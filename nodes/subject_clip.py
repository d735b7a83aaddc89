"""A CLIP with a subject: its tokenizer puts the words of S* in place of placeholders.

Weights and the original CLIP stay untouched. Nodes of other packs look into a CLIP's tokenizer: they check
its class, read the vocabulary, copy its attributes, replace its methods for a while, or call the inner
tokenizer of one text encoder. So the tokenizer here is a copy of the CLIP's own, of a subclass of its class,
with the same attributes; so is the inner one.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

import comfy.lora
import torch

from ..f2d.networks.mapping import Positional
from ..f2d.prompt.injection import CLASS_WORDS, Subject, check_placeholder, inject_tokens, isolate
from ..f2d.prompt.word_token import WordToken
from .notices import notify

log = logging.getLogger("face2diffusion")

_FAMILIES = {  # of text encoders, by the keys of their tokens
    frozenset("lg"): "an SDXL CLIP",
    frozenset("g"): "an SDXL refiner CLIP",
    frozenset(("l", "g", "t5xxl")): "an SD3 CLIP",
    frozenset(("l", "t5xxl")): "a Flux CLIP",
    frozenset("h"): "an SD2 CLIP",
    frozenset("l"): "an SD1 CLIP",
}
_STATE = "_face2diffusion"  # the attribute that tokenizers keep their `_Subjects` under


@dataclass(frozen=True, eq=False)
class _Subjects:
    """What a tokenizer must know to put S* into a prompt."""

    subjects: tuple[Subject, ...]
    position_embedding: torch.Tensor  # (77, D) float32
    plain: Any  # the CLIP's own tokenizer
    embeddings: torch.nn.Module | None = None  # of the text encoder; None after unpickling

    def __deepcopy__(self, memo: dict) -> _Subjects:
        return self  # a copied tokenizer serves the same text encoder

    def __reduce__(self) -> tuple:
        return _Subjects, (self.subjects, self.position_embedding, self.plain)

    @property
    def placeholders(self) -> list[str]:
        return [subject.placeholder for subject in self.subjects]

    def isolate(self, text: Any) -> Any:
        """Put spaces around the placeholders in a prompt, or in each prompt of a list."""
        if isinstance(text, str):
            return isolate(text, self.placeholders, strict=False)
        return [self.isolate(part) for part in text] if isinstance(text, list) else text

    def make_token(self, row: torch.Tensor, subject: Subject, half: int) -> WordToken:
        return WordToken.make(row, subject, half, self.embeddings)

    def inject(self, tokens: Any) -> Any:
        """Replace placeholders, in chunks of (token, weight, word id) or in nested lists of token ids."""
        if not isinstance(tokens, list | tuple):
            return tokens
        if tokens and all(_is_chunk(chunk) for chunk in tokens):
            if any(isinstance(token, WordToken) for chunk in tokens for token, *_ in chunk):
                return tokens  # the inner tokenizer has done it
            return inject_tokens(tokens, self.subjects, self.position_embedding, self.make_token)
        if tokens and all(isinstance(token, int | torch.Tensor) for token in tokens):
            return self._inject_ids(list(tokens))
        return type(tokens)(self.inject(part) for part in tokens)

    def _inject_ids(self, ids: list) -> list:
        pairs = {subject.token_ids: subject for subject in self.subjects if len(subject.token_ids) == 2}
        for place in range(len(ids) - 1):  # two for two: the weights are in another list of the same length
            first, second = ids[place : place + 2]
            if isinstance(first, int) and isinstance(second, int) and (first, second) in pairs:
                subject, start = pairs[first, second], min(place, len(self.position_embedding) - 2)
                rows = subject.rows(self.position_embedding[start : start + 2])
                ids[place : place + 2] = [self.make_token(rows[half], subject, half) for half in (0, 1)]
        return ids


def _is_chunk(chunk: Any) -> bool:
    return (
        isinstance(chunk, list) and bool(chunk) and all(isinstance(t, tuple) and len(t) == 3 for t in chunk)
    )


class SubjectTokenizer:
    """Comes before the class of a CLIP's tokenizer: prompts with a placeholder become prompts with S*."""

    @property
    def placeholders(self) -> list[str]:
        """What stands for the subjects in a prompt."""
        return getattr(self, _STATE).placeholders

    @property
    def plain(self) -> Any:
        """The CLIP's own tokenizer."""
        return getattr(self, _STATE).plain

    def tokenize_with_weights(self, text: Any, return_word_ids: bool = False, **options: Any) -> Any:
        """Tokenize as the class behind does.

        S* also gets into what another pack's replacement of the inner tokenizer's method returns.
        """
        state: _Subjects = getattr(self, _STATE)
        found = super().tokenize_with_weights(state.isolate(text), True, **options)  # type: ignore[misc]
        found = {key: state.inject(tokens) for key, tokens in found.items()}
        if isinstance(text, str) and text.strip() and not any(map(_has_rows, found.values())):
            _tell_missing(state.placeholders, text)
        return found if return_word_ids else {key: _without_word_ids(tokens) for key, tokens in found.items()}

    def __reduce__(self) -> tuple:
        """Pickle as what made it: the subclass has no name that could be imported."""
        return _restore, (type(self).__mro__[2], self.__dict__, SubjectTokenizer)


class _InnerTokenizer:
    """Comes before the class of one text encoder's tokenizer."""

    def tokenize_with_weights(
        self, text: Any, return_word_ids: bool = False, *rest: Any, **options: Any
    ) -> Any:
        """Tokenize as the class behind does, then put S* in place of the placeholders."""
        state: _Subjects = getattr(self, _STATE)
        found = super().tokenize_with_weights(state.isolate(text), True, *rest, **options)  # type: ignore[misc]
        found = state.inject(found)
        return found if return_word_ids else _without_word_ids(found)

    def __reduce__(self) -> tuple:
        """As for `SubjectTokenizer`."""
        return _restore, (type(self).__mro__[2], self.__dict__, _InnerTokenizer)


class _Vocabulary(dict):
    """Token ids to their texts, and words of S* to those of their placeholder."""

    def __missing__(self, token: Any) -> str:
        if not isinstance(token, WordToken):
            raise KeyError(token)
        ids = token.subject.token_ids
        return self[ids[min(token.number, len(ids) - 1)]]


@functools.cache
def _subclass(base: type, mixin: type) -> type:
    """Create the subclass of a tokenizer's class: one per class, so that comparisons of types hold."""
    return type(base.__name__, (mixin, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def _restore(base: type, attributes: dict[str, Any], mixin: type) -> Any:
    """Create an object of the subclass, with the attributes of one of the class."""
    made: Any = object.__new__(_subclass(base, mixin))
    made.__dict__.update(attributes)
    return made


def _with_subjects(tokenizer: Any, key: str, state: _Subjects) -> Any:
    """Copy a CLIP's tokenizer, and the inner one of the text encoder `key`, with subjects."""
    outer = _restore(type(tokenizer), tokenizer.__dict__, SubjectTokenizer)
    name, inner = _inner(tokenizer, key)
    inner = _restore(type(inner), inner.__dict__, _InnerTokenizer)
    if isinstance(getattr(inner, "inv_vocab", None), dict):
        inner.inv_vocab = _Vocabulary(inner.inv_vocab)
    for made in (outer, inner):
        setattr(made, _STATE, state)
    setattr(outer, name, inner)
    return outer


def _without_subjects(tokenizer: Any) -> Any:
    """Get a CLIP's own tokenizer back."""
    state: _Subjects | None = getattr(tokenizer, _STATE, None)
    return tokenizer if state is None else state.plain


def _inner(tokenizer: Any, key: str) -> tuple[str, Any]:
    name = getattr(tokenizer, "clip", f"clip_{key}")
    return name, getattr(tokenizer, name)


def _has_rows(tokens: Any) -> bool:
    if isinstance(tokens, list | tuple):
        return any(map(_has_rows, tokens))
    return isinstance(tokens, torch.Tensor)


def _without_word_ids(tokens: Any) -> Any:
    if isinstance(tokens, list) and tokens and all(map(_is_chunk, tokens)):
        return [[token[:2] for token in chunk] for chunk in tokens]
    return tokens


def _tell_missing(placeholders: list[str], text: str) -> None:
    names = " or ".join(placeholders)
    log.info("No %s in this prompt, so it is encoded without the face: '%s'", names, text)
    notify(f"No {names} in this prompt: encoded without the face.")


def plain_clip(clip: Any) -> Any:
    """Clone a CLIP without its subjects."""
    clone = clip.clone()
    clone.tokenizer = _without_subjects(clip.tokenizer)
    return clone


def check_clip(clip: Any) -> Any:
    """Return a CLIP, or raise a ValueError if a checkpoint without one is connected."""
    if clip is None:
        raise ValueError(
            "The clip input is None: the checkpoint has no CLIP or text encoder. "
            "Connect the CLIP of an SD 1.x checkpoint, or load one with Load CLIP."
        )
    return clip


def inject_subject(
    clip: Any, placeholder: str, words: torch.Tensor, positional: Positional, strength: float
) -> Any:
    """Clone a CLIP and set a subject in the clone.

    Args:
        clip: ComfyUI's CLIP; may already have other subjects.
        placeholder: what stands for the person in prompts.
        words: shape (2, D), float32.
        positional: how the mapper was trained.
        strength: from 0 ("a person") to 1 (S*) and beyond.

    Returns:
        The clone.

    Raises:
        ValueError: no CLIP, another family of text encoders, words of another width, or a placeholder that is
            invalid or taken.
    """
    tokenizer = _without_subjects(check_clip(clip).tokenizer)
    known: _Subjects | None = getattr(clip.tokenizer, _STATE, None)
    placeholder = check_placeholder(placeholder)
    key, ids = _token_ids(tokenizer, placeholder)
    embeddings = _embeddings(clip, key, words)
    subjects = known.subjects if known else ()
    if any(subject.token_ids == ids for subject in subjects):
        raise ValueError(
            f"The placeholder '{placeholder}' is already taken by another person. "
            "Give each one its own, such as 'S1*' and 'S2*'."
        )
    class_ids = _token_ids(tokenizer, CLASS_WORDS)[1]
    class_rows = _patched(clip, key, "token_embedding", class_ids)
    subject = Subject(placeholder, ids, words.cpu(), class_rows, positional, strength, class_ids)
    clone = clip.clone()
    positions = _patched(clip, key, "position_embedding")
    state = _Subjects((*subjects, subject), positions, tokenizer, embeddings)
    clone.tokenizer = _with_subjects(tokenizer, key, state)
    return clone


def position_embedding(clip: Any, words: torch.Tensor) -> torch.Tensor:
    """Get a CLIP's position embedding, with the CLIP's own patches (merges) and no others.

    Args:
        clip: ComfyUI's CLIP.
        words: shape (2, D); must fit the CLIP.

    Returns:
        shape (77, D), float32, CPU.

    Raises:
        ValueError: no CLIP, another family of text encoders, or one of another width.
    """
    return _patched(clip, text_encoder_key(clip, words), "position_embedding")


def text_encoder_key(clip: Any, words: torch.Tensor) -> str:
    """Return the key of a CLIP's tokens and text encoder, such as "l".

    Args:
        clip: ComfyUI's CLIP.
        words: shape (2, D); must fit the CLIP.

    Returns:
        The key.

    Raises:
        ValueError: no CLIP, another family of text encoders, or one of another width.
    """
    key, _ = _token_ids(_without_subjects(check_clip(clip).tokenizer), CLASS_WORDS)
    _embeddings(clip, key, words)
    return key


def _patched(clip: Any, key: str, name: str, rows: tuple[int, ...] | None = None) -> torch.Tensor:
    """Compute an embedding's weight with this CLIP's patches; the module may hold those of another CLIP."""
    full = f"clip_{key}.transformer.text_model.embeddings.{name}.weight"
    found = clip.patcher.get_key_patches(full).get(full) if getattr(clip, "patcher", None) else None
    if found is None:
        weight, patches = getattr(_text_embeddings(clip, key), name).weight, []
    else:
        (weight, convert), *patches = found
        weight = convert(weight)
    if not patches:
        weight = weight.detach()
        return (weight if rows is None else weight[list(rows)]).float().cpu()
    weight = comfy.lora.calculate_weight(patches, weight.detach().to(torch.float32, copy=True), full)
    return (weight if rows is None else weight[list(rows)]).float().cpu()


def _token_ids(tokenizer: Any, text: str) -> tuple[str, tuple[int, ...]]:
    tokens = tokenizer.tokenize_with_weights(text, True)
    if len(tokens) != 1:
        family = _FAMILIES.get(frozenset(tokens), f"a CLIP with {', '.join(tokens)}")
        raise ValueError(
            f"This is {family}; Face2Diffusion's words are made for Stable Diffusion 1.x. "
            "Connect the CLIP of an SD 1.x checkpoint."
        )
    key, chunks = next(iter(tokens.items()))
    return key, tuple(token for chunk in chunks for token, _, word in chunk if word)


def _text_embeddings(clip: Any, key: str) -> Any:
    encoder = getattr(clip.cond_stage_model, f"clip_{key}", None)
    return getattr(getattr(getattr(encoder, "transformer", None), "text_model", None), "embeddings", None)


def _embeddings(clip: Any, key: str, words: torch.Tensor) -> Any:
    """Get the module with the token and position embeddings; check that the words fit."""
    embeddings = _text_embeddings(clip, key)
    width = embeddings.token_embedding.weight.shape[1] if hasattr(embeddings, "token_embedding") else None
    if width != words.shape[-1]:
        family = _FAMILIES.get(frozenset([key]), f"a text encoder of kind '{key}'")
        raise ValueError(
            f"This is {family} {width or 'without token embeddings'} wide; "
            f"the mapper's words are {words.shape[-1]} wide. "
            "Use an SD 1.x checkpoint, or the mapper that was trained for this base model."
        )
    return embeddings
