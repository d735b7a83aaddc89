"""S* in a prompt: finding it among the tokens, and the rows that stand in its place (Fig. 3b).

The authors overwrite the sum of token embedding and position embedding with a word of S*. A text encoder adds
the position embedding to whatever stands at a token's place, so the row to put there is
`S* - position_embedding[i]`. A mapper trained with `positional="before"` predicts the row itself.

The same code serves ComfyUI (chunks of 77 tokens, with weights), the stand-alone pipeline and training.

Dimension letters: D word width, N length of a chunk (77).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..networks.mapping import Positional

PLACEHOLDER = "S*"
PROMPT = f"A photo of {PLACEHOLDER}"  # what words are trained in (Sec. 4.1)
CLASS_WORDS = "a person"  # the super-class of faces (Sec. 3.4): two tokens, as S*
_AFTER = 1.4142e-5  # of the denoising; a hundredth of a timestep
_WHOLE_GROUP = 8  # ComfyUI keeps a run of fewer tokens than this in one chunk
# With its name as ComfyUI reads it; a comma ends it, so that S* may follow.
_EMBEDDING = r"(?<!\w)embedding:\s*(?:\\[()]|[^\s(),<\[])+"

Token = tuple[
    Any, float, int
]  # (token id or row, weight, word id; 0 = start, end or padding), as ComfyUI's tokenizer gives them


def insertion_rows(words: Tensor, position_rows: Tensor, positional: Positional = "replace") -> Tensor:
    """Turn S* into the rows that a text encoder must see in place of token embeddings (Fig. 3b).

    Args:
        words: shape (..., 2, D): S1*, S2*; learned words of other methods may be of any number.
        position_rows: shape (2, D): the position embedding at their places.
        positional: how the mapper was trained.

    Returns:
        shape (..., 2, D).
    """
    return words - position_rows if positional == "replace" else words


@dataclass(frozen=True, eq=False)
class Subject:
    """One person in prompts: a placeholder and what stands for it."""

    placeholder: str
    token_ids: tuple[int, ...]  # of the placeholder
    words: Tensor  # (2, D) float32; of other methods (W, D), from 1 word
    class_rows: Tensor  # (2, D) float32: token embeddings of "a person"
    positional: Positional = "replace"
    strength: float = 1.0  # 0 = "a person", 1 = S*
    class_ids: tuple[
        int, ...
    ] = ()  # tokens of "a person", to read class_rows again if the text encoder is patched

    def __post_init__(self) -> None:
        """Check that the placeholder can be found at all."""
        if not self.token_ids:
            raise ValueError(
                f"The placeholder '{self.placeholder}' has no token; it needs letters or signs. Use 'S*'."
            )

    def rows(self, position_rows: Tensor, class_rows: Tensor | None = None) -> Tensor:
        """Compute the rows for one occurrence.

        Strength turns the direction, since CLIP normalizes what it sees: S* may be many times as long as a
        usual word, so a straight line from "a person" would arrive after a few percent of the way. The length
        changes geometrically, and stays as it is beyond 1.

        Args:
            position_rows: shape (2, D): the position embedding at the places of the words.
            class_rows: shape (2, D): the token embeddings of "a person"; None = `self.class_rows`.

        Returns:
            shape (2, D), on the device of `position_rows`.
        """
        class_rows = self.class_rows if class_rows is None else class_rows
        class_rows, words = class_rows.to(position_rows), self.words.to(position_rows)
        rows = insertion_rows(words, position_rows, self.positional)
        if self.strength in (0, 1):
            return rows if self.strength else class_rows
        start, end = class_rows + position_rows, rows + position_rows  # as CLIP sees them
        direction = torch.lerp(
            functional.normalize(start, dim=-1), functional.normalize(end, dim=-1), self.strength
        )
        share = min(self.strength, 1.0)
        length = start.norm(dim=-1, keepdim=True) ** (1 - share) * end.norm(dim=-1, keepdim=True) ** share
        return functional.normalize(direction, dim=-1) * length - position_rows


def check_placeholder(placeholder: str) -> str:
    """Return a placeholder without the spaces around it.

    Args:
        placeholder: what the user typed.

    Returns:
        The placeholder.

    Raises:
        ValueError: it is empty, or has characters with another meaning in a prompt.
    """
    placeholder = placeholder.strip()
    if not placeholder:
        raise ValueError("The placeholder is empty. Type one, such as 'S*'.")
    if re.search(r"[()\\:\n]", placeholder):
        raise ValueError(
            f"The placeholder {placeholder!r} cannot be used in a prompt: parentheses, backslashes, colons "
            "and line breaks have another meaning there. Use 'S*' or 'S1*'."
        )
    return placeholder


def isolate(prompt: str, placeholders: Iterable[str], strict: bool = True) -> str:
    """Put spaces around each placeholder, so that CLIP's tokenizer keeps it apart ("S*," or "S*'s").

    A placeholder that ends in a sign, such as "S*", may touch letters after it: CLIP's own tokenizer splits
    "S*as" there. What stands behind `embedding:` is left alone: with the placeholder "alice",
    `embedding:alice` is still the file.

    Args:
        prompt: the text.
        placeholders: as `check_placeholder` gives them.
        strict: raise where a placeholder is glued to a word before it or to digits after it; else leave it as
            it is.

    Returns:
        The text with spaces.

    Raises:
        ValueError: a placeholder with a sign in it, such as "S*", is glued to another word.
    """
    placeholders = list(placeholders)
    if strict:
        _refuse_glued(re.sub(_EMBEDDING, " ", prompt), placeholders)
    return _pattern(placeholders).sub(lambda match: f" {match[0]} " if match[1] else match[0], prompt)


def _refuse_glued(text: str, placeholders: Sequence[str]) -> None:
    # Only in the placeholder's own capitals: "S*" is meant in "aS*", but a star after small letters is
    # a footnote.
    for placeholder in placeholders:
        if re.search(r"[^\w\s]", placeholder):
            for found in re.findall(rf"\w+{re.escape(placeholder)}|{re.escape(placeholder)}[\d_]\w*", text):
                if found not in placeholders:
                    raise ValueError(
                        f"'{found}' in the prompt joins '{placeholder}' to another word. "
                        f"Put spaces around '{placeholder}'."
                    )


def replace_placeholders(prompt: str, placeholders: Iterable[str], class_words: str = CLASS_WORDS) -> str:
    """Build the class prompt: every placeholder becomes the class words.

    Args:
        prompt: the text.
        placeholders: as `check_placeholder` gives them.
        class_words: what stands for a person.

    Returns:
        The class prompt.

    Raises:
        ValueError: there is no placeholder in the prompt, or one inside a word, or there are no class words.
    """
    if not class_words.strip():
        raise ValueError(f"The class words are empty. Type a class for the person, such as '{CLASS_WORDS}'.")
    placeholders = list(placeholders)
    isolate(prompt, placeholders)
    if not names_subject(prompt, placeholders):
        raise missing_placeholder(prompt, placeholders)
    return _pattern(placeholders).sub(lambda match: class_words if match[1] else match[0], prompt)


def names_subject(prompt: str, placeholders: Iterable[str]) -> bool:
    """Return whether a prompt has a placeholder in it."""
    return any(match[1] for match in _pattern(list(placeholders)).finditer(prompt))


def missing_placeholder(prompt: str, placeholders: Iterable[str]) -> ValueError:
    """Build the error for a prompt without a placeholder."""
    names = " or ".join(f"'{placeholder}'" for placeholder in placeholders)
    return ValueError(
        f"The prompt '{prompt}' does not contain {names}. "
        f"Write, for instance, 'A photo of {PLACEHOLDER} as a chef'."
    )


def _pattern(placeholders: Sequence[str]) -> re.Pattern[str]:
    """Match an embedding, or a placeholder as group 1."""
    texts = []
    for placeholder in sorted(placeholders, key=len, reverse=True):
        text = r"\s+".join(map(re.escape, placeholder.split()))  # CLIP takes any spaces for one
        texts.append(text + (r"(?!\w)" if re.search(r"\w$", placeholder) else r"(?![\d_])"))
    return re.compile(rf"(?-i:{_EMBEDDING})|(?<!\w)({'|'.join(texts)})", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class _Slot:
    """One word of an occurrence of S*, until its place in the chunk is known."""

    subject: Subject
    word: int  # 0 = S1*, 1 = S2*

    @property
    def last(self) -> bool:
        """Whether it ends the occurrence."""
        return self.word == len(self.subject.words) - 1


def inject_tokens(
    chunks: Sequence[Sequence[Token]],
    subjects: Sequence[Subject],
    position_embedding: Tensor,
    make_token: Callable[[Tensor, Subject, int], Any] | None = None,
) -> list[list[Token]]:
    """Put the rows of S* in place of every placeholder in a tokenized prompt.

    Chunks without a placeholder keep their tokens. The layout is that of ComfyUI's tokenizer, except that the
    two words of S* always stay in one chunk.

    Args:
        chunks: lists of N (token, weight, word id); start, end and padding have word id 0.
        subjects: who may be in the prompt.
        position_embedding: shape (N, D), float32.
        make_token: makes the token of a row of shape (D,), its subject and its number (0 = S1*, 1 = S2*);
            None = the row.

    Returns:
        Chunks of the same kind, in which rows of shape (D,), or what `make_token` made of them, stand for the
        placeholders.
    """
    length = len(chunks[0])
    groups = [
        list(group)
        for _, group in groupby(
            (token for chunk in chunks for token in chunk if token[2]), key=lambda token: token[2]
        )
    ]
    units = [unit for group in groups for unit in _units(group, list(_substitute(group, subjects)))]
    start = [token for token in chunks[0][:1] if not token[2]]
    tails = [[token for token in chunk[1:] if not token[2]] for chunk in chunks]
    end, padding = tails[0][0], max(tails, key=len)[-1]
    filled: list[list[Token]] = [list(start)]
    for unit in units:
        if len(filled[-1]) + len(unit) > length - 1:
            filled.append(list(start))
        filled[-1].extend(unit)
    filled = [chunk + [end] + [padding] * (length - 1 - len(chunk)) for chunk in filled]
    return [
        [_place(token, index, position_embedding, make_token) for index, token in enumerate(chunk)]
        for chunk in filled
    ]


def _substitute(group: Sequence[Token], subjects: Sequence[Subject]) -> Iterator[Token]:
    """Exchange each placeholder's tokens for a slot per word."""
    longest_first = sorted(subjects, key=lambda subject: -len(subject.token_ids))
    ids = [token[0] if isinstance(token[0], int) else None for token in group]
    index = 0
    while index < len(group):
        for subject in longest_first:
            if tuple(ids[index : index + len(subject.token_ids)]) == subject.token_ids:
                _, weight, word = group[index]
                yield from ((_Slot(subject, place), weight, word) for place in range(len(subject.words)))
                index += len(subject.token_ids)
                break
        else:
            yield group[index]
            index += 1


def _units(original: Sequence[Token], group: Sequence[Token]) -> Iterator[list[Token]]:
    """Split a group into what must stay in one chunk: a short group, else single tokens and whole S*."""
    if len(original) < _WHOLE_GROUP:
        yield list(group)
        return
    unit: list[Token] = []
    for token in group:
        unit.append(token)
        if not isinstance(token[0], _Slot) or token[0].last:
            yield unit
            unit = []


def _place(
    token: Token,
    index: int,
    position_embedding: Tensor,
    make_token: Callable[[Tensor, Subject, int], Any] | None,
) -> Token:
    slot, weight, word = token
    if not isinstance(slot, _Slot):
        return token
    first, count = index - slot.word, len(slot.subject.words)
    row = slot.subject.rows(position_embedding[first : first + count])[slot.word]
    return row if make_token is None else make_token(row, slot.subject, slot.word), weight, word


def delayed_ranges(subject_from: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Split the denoising for delayed subject conditioning (DSC, Sec. 3.4): the class prompt first, then S*.

    The switch lies just after `subject_from`, where no scheduler puts a step: each step sees exactly one
    prompt, and a step exactly at `subject_from` still sees the class prompt, as in FastComposer.

    Args:
        subject_from: share of the denoising without the face, in (0, 1): 1 minus the paper's alpha.

    Returns:
        Start and end of the class prompt, and of the prompt with S*, as shares of the timesteps.
    """
    switch = subject_from + _AFTER
    return (0.0, switch), (switch, 1.0)


def has_rows(chunks: Sequence[Sequence[Token]]) -> bool:
    """Return whether `inject_tokens` has found a placeholder; embeddings of the user's own count too."""
    return any(not isinstance(token[0], int) for chunk in chunks for token in chunk)
