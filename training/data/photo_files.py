"""Photos in folders: every file once, whatever links lead to it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ...f2d.files import hash_file

_READERS = 8
_LISTED = 5  # files that are named in the log


def walk_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, except hidden ones; each real folder is visited once.

    Links to folders are followed after the real folders beside them, so that a link to a parent, or to a
    folder that has been visited, adds nothing.
    """
    visited: set[str] = set()
    for where, folders, names in os.walk(os.fspath(folder), followlinks=True):
        real = os.path.realpath(where)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(where, name)), name))
        yield from (Path(where) / name for name in sorted(names) if not name.startswith("."))


def split_files(folder: str | os.PathLike[str], suffixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """List the files that have one of the suffixes, and those that are passed over.

    Args:
        folder: to search, with its subfolders.
        suffixes: in lowercase.

    Returns:
        Names within the folder, with '/', sorted: those with a suffix, and the others.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in walk_files(folder))
    chosen = [name for name in names if name.lower().endswith(tuple(suffixes))]
    return chosen, sorted(set(names) - set(chosen))


def log_passed_over(log: Callable[[str], None], names: Sequence[str]) -> None:
    """Log how many files of which kind are not read as photos, and the first of them."""
    if not names:
        return
    kinds = Counter(os.path.splitext(name)[1].lower() or "without suffix" for name in names)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    more = ", ..." if len(names) > _LISTED else ""
    log(f"Ignored {len(names)} files that are not photos: {counts} ({', '.join(names[:_LISTED])}{more}).")


def hash_photos(folder: str | os.PathLike, names: Sequence[str]) -> str:
    """Hash the names and contents of photos: SHA-256 in hexadecimal."""

    def hash_one(name: str) -> str:
        path = Path(folder) / name
        return hash_file(path) if path.is_file() else "gone"

    digest = hashlib.sha256()
    with ThreadPoolExecutor(_READERS) as pool:
        hashes = tqdm(pool.map(hash_one, names), "hash photos", len(names), unit="photo", disable=None)
        for name, content in zip(names, hashes, strict=True):
            digest.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
