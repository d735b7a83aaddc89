"""Files: checked before they are read, written atomically, and hashed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError

_LFS_MAGIC = b"version https://git-lfs"
TEMPORARY = ".f2d-"  # how the names of unfinished files begin


def check_file(path: str | os.PathLike, what: str) -> str:
    """Check that a file exists, is not empty, and is no Git-LFS pointer or web page of that name.

    Args:
        path: the file.
        what: what should be in it, for the message.

    Returns:
        The path as a string.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be what it should be.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"'{path}' does not exist; {what} should be there. Check the path, or run `f2d download`."
        )
    if os.path.isdir(path):
        raise ValueError(f"'{path}' is a folder, not {what}. Name one file in it.")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ValueError(
            f"'{path}', {what}, cannot be read ({error.strerror}). Check its permissions."
        ) from error
    if not head:
        raise ValueError(f"'{path}' has 0 bytes and is not {what}. Download it again.")
    if head.startswith(_LFS_MAGIC):
        raise ValueError(
            f"'{path}' is a Git-LFS pointer of {os.path.getsize(path)} bytes, not {what}. "
            "Download the file itself (or run `git lfs pull`)."
        )
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise ValueError(f"'{path}' is a web page, not {what}. Download the file itself through a browser.")
    return path


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[str]:
    """Yield a temporary name in the target's folder, and move it over the target when the block succeeds.

    The file's bytes are on the disk before the target has its name, and the name before this returns, so that
    files which are written one after the other survive a power failure in that order.

    Args:
        path: the target; it is never seen half written, and an existing file survives a failure.

    Yields:
        The temporary path.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    path = os.path.abspath(os.fspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(f"'{path}' is a folder and cannot be written as a file. Add a file name.")
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}{os.path.splitext(path)[1]}")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "xb") as file:
            permissions = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise type(error)(
            f"The folder '{folder}' cannot be written to ({error.strerror}). Choose another."
        ) from error
    try:
        yield temporary
        os.chmod(
            temporary, permissions
        )  # safetensors exchanges the file for one of its own, which only its owner may read
        _sync(temporary)
        os.replace(temporary, path)
        _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"'{path}' cannot be written ({error}). Free some space, or choose another folder."
        ) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _sync(path: str) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: str) -> None:
    """Wait until a folder's names are on the disk; Windows and some network file systems cannot."""
    with contextlib.suppress(OSError):
        _sync(path)


def write_bytes(path: str | os.PathLike, content: bytes | memoryview) -> None:
    """Write a file atomically; folders are made.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; an existing file survives.
    """
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, atomically, with line ends as they are; errors as for `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(
    path: str | os.PathLike, value: Any, indent: int | None = 2, ensure_ascii: bool = True
) -> None:
    """Write a value as JSON with a final newline, atomically.

    Args:
        path: where to; folders are made.
        value: what `json.dumps` takes.
        indent: spaces per level; None = one line.
        ensure_ascii: write other characters as escapes.

    Raises:
        OSError: as for `write_bytes`.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=ensure_ascii) + "\n")


def hash_file(path: str | os.PathLike) -> str:
    """Hash a file's content.

    Returns:
        SHA-256 in hexadecimal, 64 characters.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash tensors by name, shape and content, so that a .pt and its .safetensors have the same fingerprint.

    Args:
        tensors: of any shape.

    Returns:
        SHA-256 in hexadecimal, 64 characters.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
