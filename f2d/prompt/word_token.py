"""A word of S* as a token: it learns its place in the sequence only when the text encoder puts it there.

The row for a word depends on its place, since the text encoder adds the position embedding of that place (see
`injection.py`). Prompt nodes move tokens after they were made (BREAK, masks, shuffles), and LoRA hooks and
merges exchange the encoder's embeddings between tokenizing and encoding. So a `WordToken` computes its row at
the moment the encoder concatenates it with its neighbors, from the embeddings that are in the encoder then.
Until that moment it behaves like a token: it equals another token of the same word, and never a number.

Dimension letters: D word width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .injection import Subject

_SAME_WORD = {  # functions whose result is still this word, only elsewhere or in another shape
    Tensor.view,
    Tensor.reshape,
    Tensor.to,
    Tensor.cpu,
    Tensor.cuda,
    Tensor.float,
    Tensor.half,
    Tensor.bfloat16,
    Tensor.clone,
    Tensor.detach,
    Tensor.contiguous,
    Tensor.flatten,
    Tensor.squeeze,
    Tensor.unsqueeze,
}


class WordToken(Tensor):
    """One of the two words of S*, shape (D,); its values are the row for the place where it was made."""

    subject: Subject
    number: int  # 0 = S1*, 1 = S2*
    embeddings: torch.nn.Module | None  # of the text encoder: `token_embedding` and `position_embedding`

    @staticmethod
    def make(row: Tensor, subject: Subject, number: int, embeddings: torch.nn.Module | None) -> WordToken:
        """Make a token.

        Args:
            row: shape (D,), for the place where the token stands now.
            subject: whose word it is.
            number: 0 = S1*, 1 = S2*.
            embeddings: of the text encoder that will see it; None = the row stays as it is.

        Returns:
            The token, shape (D,).
        """
        token = row.detach().as_subclass(WordToken)
        token.subject, token.number, token.embeddings = subject, number, embeddings
        return token

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Keep the word through moves and reshapes, and return its row when it is put into a sequence."""
        if function is torch.cat:
            args = (_place(*args[:2], **(kwargs or {})), *args[1:])
            kwargs = {name: value for name, value in (kwargs or {}).items() if name != "tensors"}
        elif function is torch.equal and all(isinstance(argument, WordToken) for argument in args[:2]):
            return args[0].same_word(args[1])
        elif function is Tensor.__getitem__ and isinstance(args[1], WordToken):
            return _plain(args[1]).to(
                args[0].device
            )  # a row of a table of token embeddings; half would overflow
        result = super().__torch_function__(function, types, args, kwargs or {})
        if not isinstance(result, WordToken):
            return result
        source = args[0]
        if function in _SAME_WORD and isinstance(source, WordToken) and result.numel() == source.numel():
            result.subject, result.number, result.embeddings = (
                source.subject,
                source.number,
                source.embeddings,
            )
            return result
        return _plain(result)

    def __eq__(self, other: object) -> Any:
        """A word is no number; between tensors, element by element."""
        return super().__eq__(other) if isinstance(other, Tensor) else False

    def __ne__(self, other: object) -> Any:
        """As `__eq__`."""
        return super().__ne__(other) if isinstance(other, Tensor) else True

    __hash__ = Tensor.__hash__

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # torch's is untyped
        """Name the word, where a node shows a prompt's tokens."""
        return (
            f"S{self.number + 1}* of '{self.subject.placeholder}'"
            if hasattr(self, "subject")
            else super().__repr__()
        )

    def __format__(self, spec: str) -> str:
        """As `__repr__`."""
        return format(repr(self), spec)

    def __deepcopy__(self, memo: dict) -> WordToken:
        """Copy the values; subject and text encoder stay the same objects."""
        return self.clone()  # type: ignore[return-value]  # __torch_function__ keeps the class

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the values only: what a file holds has no text encoder."""
        return _plain(self).__reduce_ex__(protocol)

    def same_word(self, other: WordToken) -> bool:
        """Return whether two tokens are the same word of the same subject, at any position."""
        return self.subject is other.subject and self.number == other.number

    def row(self, place: int) -> Tensor:
        """Compute the row for a place from the embeddings that the text encoder has now.

        Args:
            place: index in the sequence that the text encoder sees.

        Returns:
            shape (D,), float32, on this token's device.
        """
        if self.embeddings is None:
            return _plain(self)
        first = place - self.number
        embeddings: Any = self.embeddings
        positions = embeddings.position_embedding.weight.detach()
        if not 0 <= first <= len(positions) - 2:
            return _plain(self)
        weight = embeddings.token_embedding.weight.detach()
        class_rows = (
            weight[list(self.subject.class_ids)] if self.subject.class_ids else self.subject.class_rows
        )
        rows = self.subject.rows(
            positions[first : first + 2].to(self.device, torch.float32),
            class_rows.to(self.device, torch.float32),
        )
        return rows[self.number]


def _plain(token: Tensor) -> Tensor:
    return token.as_subclass(Tensor)


def _place(tensors, dim=0, **_):  # type: ignore[no-untyped-def]
    """Replace word tokens of shape (1, 1, D) by their rows; what stands before one is its place."""
    placed, start = [], 0
    for tensor in tensors:
        if isinstance(tensor, WordToken):
            row = tensor.row(start) if dim == 1 and tensor.ndim == 3 else tensor
            placed.append(_plain(row).reshape(tensor.shape).to(tensor.dtype))
        else:
            placed.append(tensor)
        start += tensor.shape[dim] if tensor.ndim > dim else 0
    return placed
