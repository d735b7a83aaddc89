"""Makes a Python process that of a ComfyUI checkout, with our pack loaded as ComfyUI loads it.

The scripts in this folder run as `PYTHON script.py CHECKOUT PACK [JSON]` and print one line of JSON; see
`support.inside`.
"""

import asyncio
import json
import os
import sys
import tempfile
import time

CHECKOUT, PACK = (os.path.abspath(path) for path in sys.argv[1:3])
ARGUMENT = json.loads(sys.argv[3]) if len(sys.argv) > 3 else None
sys.argv[1:] = ["--cpu"]
sys.path.insert(0, CHECKOUT)
os.chdir(CHECKOUT)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import folder_paths  # noqa: E402
from comfy_api.latest import io, ui  # noqa: E402, F401 (ComfyUI's own extra nodes import it before any pack)

import nodes  # noqa: E402

folder_paths.set_temp_directory(tempfile.gettempdir())  # else previews go into the checkout


def load_pack() -> tuple[float, list[str]]:
    """Load the pack; returns the seconds it took, and which large packages it imported."""
    # ComfyUI brings a pack of its own, which pays for what any pack makes it import.
    asyncio.run(
        nodes.load_custom_node(
            os.path.join(CHECKOUT, "custom_nodes", "websocket_image_save.py"), ignore=set()
        )
    )
    before = set(sys.modules)
    start = time.perf_counter()
    if not asyncio.run(nodes.load_custom_node(PACK, ignore=set())):
        raise ImportError(f"ComfyUI could not load {PACK}.")
    seconds = time.perf_counter() - start
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    return seconds, sorted(new & {"timm", "cv2", "diffusers", "transformers"})


def node(name: str) -> type:
    """Get a node class by its id."""
    return nodes.NODE_CLASS_MAPPINGS[name]
