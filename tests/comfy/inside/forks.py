"""Imports ComfyUI once, and runs scripts of this folder in forks of this process.

Runs as `PYTHON forks.py CHECKOUT PACK`. Each line of the input is a JSON list, [script, argument, file for
what it prints]; each line of the output is the exit status of one. See `support.inside`.
"""

import json
import os
import runpy
import sys
import traceback
from typing import Any

replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what ComfyUI prints when it is imported

import boot  # noqa: E402
import comfy.sd  # noqa: E402, F401


def run(script: str, argument: Any, output: str) -> int:
    """Run a script as in a process of its own; returns the exit status."""
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
    boot.ARGUMENT = argument
    try:
        runpy.run_path(os.path.join(os.path.dirname(__file__), f"{script}.py"), run_name="__main__")
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(run(*json.loads(line)))
    status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), file=replies, flush=True)
