"""What the registry's archive holds.

The files under version control without those that .comfyignore names, as `comfy node pack` selects.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from support.server import REPOSITORY


def shipped_files() -> list[str]:
    """Returns the paths in the archive, with slashes, in order."""
    return sorted(_tracked() - _tracked("--ignored", f"--exclude-from={REPOSITORY / '.comfyignore'}"))


def copy_pack(target: Path) -> Path:
    """Copies what the archive holds to a new folder, as unpacking it does, and returns the folder."""
    for name in shipped_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, target / name)
    return target


def _tracked(*options: str) -> set[str]:
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "-z", *options]
    return {
        name
        for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        if name
    }
