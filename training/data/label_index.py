"""The labels of a record file, cached beside it, as reading them touches all of its tens of gigabytes."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...f2d.files import atomic_file

logger = logging.getLogger(__name__)

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def index_file(record: Path) -> Path:
    """Name the file with the labels of `train.rec`: `train.labels.npz`."""
    return record.with_suffix(".labels.npz")


def read_labels_once(record: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the labels that were kept, or read and keep them.

    Args:
        record: the .rec file; its .idx lies beside it. A change of either's size or time outdates the labels.
        read: reads the labels, (N,).

    Returns:
        shape (N,).
    """
    state, file = _state(record), index_file(record)
    try:
        with np.load(file, allow_pickle=False) as kept:
            if np.array_equal(kept["state"], state):
                return kept["labels"]
    except _DAMAGED:
        pass
    labels = read()
    try:
        with atomic_file(file) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, state=state, labels=labels)
    except OSError as error:
        logger.warning(
            "The labels of '%s' cannot be cached (%s), so every start reads them again.", record, error
        )
    return labels


def _state(record: Path) -> np.ndarray:
    """Sizes and times of .rec and .idx, (4,)."""
    found = [file.stat() for file in (record, record.with_suffix(".idx"))]
    return np.array([number for one in found for number in (one.st_size, one.st_mtime_ns)], np.int64)
