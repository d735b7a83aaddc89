"""A disk that is really full: a small tmpfs in a mount namespace of one command's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SCRIPT = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99
disk="$2"
copy="$3"
shift 3
"$@"
code=$?
cp -r "$disk" "$copy"
exit $code
"""


def run_on_small_disk(
    command: list[str], disk: Path, size: str, copy: Path, **options
) -> subprocess.CompletedProcess:
    """Run a command with a tmpfs of `size` (as for mount, "2m") at `disk`.

    What it left there is copied to `copy`.
    """
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode
    ):
        pytest.skip(
            "needs mount namespaces: util-linux's unshare, and a kernel that lets this user make them"
        )
    disk.mkdir()
    prefix = ["unshare", "-rm", "sh", "-c", _SCRIPT, "sh", size, str(disk), str(copy)]
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, **options)
    if done.returncode == 99:
        pytest.skip(f"needs to mount a tmpfs: {done.stderr.strip()}")
    return done
