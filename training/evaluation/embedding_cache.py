"""A file of embeddings that survives killed runs.

Dimension letters: B images, C width of an embedding.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_QUERY_SIZE = 500  # images; SQLite accepts 999 values per query
_CREATE = """
CREATE TABLE IF NOT EXISTS embedding
(judge TEXT, picture TEXT, vector BLOB, PRIMARY KEY (judge, picture)) WITHOUT ROWID
"""


class EmbeddingCache:
    """Embeddings by evaluator and image, in SQLite; only what was committed survives a kill."""

    def __init__(self, path: str | os.PathLike | None) -> None:
        """Open the cache.

        Args:
            path: of the file, created if missing; None = in memory.

        Raises:
            ValueError: the file is something else or damaged.
            OSError: the file cannot be written to.
        """
        self._path = os.fspath(path) if path is not None else ":memory:"
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(self._path, timeout=60)
            with self._connection as connection:
                connection.execute(_CREATE)
                connection.execute("SELECT judge, picture, vector FROM embedding LIMIT 1")
        except sqlite3.OperationalError as error:
            raise OSError(
                f"The score cache '{self._path}' cannot be written ({error}). Choose another file with "
                "--cache."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"'{self._path}' is damaged or not a score cache ({error}). Delete it, or choose another "
                "file with --cache."
            ) from error

    def known(self, evaluator: str, images: Iterable[str]) -> set[str]:
        """Return the images that have been embedded."""
        return set(self._rows(evaluator, images, "picture"))

    def get(self, evaluator: str, images: Sequence[str]) -> Tensor:
        """Return the embeddings in order, shape (B, C), float64; zeros for images without a face."""
        rows = self._rows(evaluator, images, "picture, vector")
        vectors = {
            image: np.frombuffer(vector, np.float32) for image, vector in rows.items() if vector is not None
        }
        width = max((len(vector) for vector in vectors.values()), default=1)
        no_face = np.zeros(width, np.float32)
        return torch.from_numpy(np.stack([vectors.get(image, no_face) for image in images])).double()

    def put(self, rows: Sequence[tuple[str, str, Tensor | None]]) -> None:
        """Write the rows (evaluator, image, vector) in one transaction."""
        values = [
            (evaluator, image, None if vector is None else vector.numpy().tobytes())
            for evaluator, image, vector in rows
        ]
        try:
            with self._connection as connection:
                connection.executemany("INSERT OR REPLACE INTO embedding VALUES (?, ?, ?)", values)
        except sqlite3.OperationalError as error:
            raise OSError(
                f"The score cache '{self._path}' cannot be written ({error}). Free some space, then run "
                "again."
            ) from error

    def _rows(self, evaluator: str, images: Iterable[str], columns: str) -> dict[str, Any]:
        names = list(dict.fromkeys(images))
        rows: dict[str, Any] = {}
        for start in range(0, len(names), _QUERY_SIZE):
            part = names[start : start + _QUERY_SIZE]
            marks = ",".join("?" * len(part))
            query = f"SELECT {columns} FROM embedding WHERE judge = ? AND picture IN ({marks})"
            rows |= {row[0]: row[-1] for row in self._connection.execute(query, (evaluator, *part))}
        return rows
