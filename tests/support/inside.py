"""Scripts of tests/comfy/inside, run in the Python of a ComfyUI checkout."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.server import REPOSITORY, find_python

SCRIPTS = REPOSITORY / "tests" / "comfy" / "inside"


def run_inside(checkout: Path, script: str, argument: Any = None) -> Any:
    """Runs a script in a process of its own and returns the JSON it prints."""
    command = [*_command(checkout, script), *([] if argument is None else [json.dumps(argument)])]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "TMPDIR": folder},
        )
    if done.returncode:
        raise RuntimeError(f"{script}.py failed in {checkout}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _command(checkout: Path, script: str) -> list[str]:
    return [str(part) for part in (find_python(checkout), SCRIPTS / f"{script}.py", checkout, REPOSITORY)]


class Inside:
    """A process that has imported ComfyUI and runs scripts in forks of itself, 5 s faster each."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        """Starts the process; `folder`, which exists, gets its log and what the scripts print."""
        self.checkout, self._log, self._output = checkout, folder / "inside.log", folder / "output.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                _command(checkout, "forks"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # one thread: others do not live on in a fork
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder.resolve())},
            )

    def run(self, script: str, argument: Any = None) -> Any:
        """Runs a script and returns the JSON it prints."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps([script, argument, str(self._output)]), file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != "0\n":
            raise RuntimeError(f"{script}.py failed in {self.checkout}:\n{self._log.read_text()[-3000:]}")
        return json.loads(self._output.read_text().splitlines()[-1])

    def stop(self) -> None:
        """Ends the process."""
        self._process.communicate()
