"""The nodes' interface is what schema.json says, so that no graph breaks unseen."""

from __future__ import annotations

import json
import os

import pytest
from support.schema import COMMITTED, NEWER, core_types, read_schema, supported
from support.server import ComfyServer

UPDATE = "F2D_UPDATE_SCHEMA=1 pytest tests/comfy/test_schema.py"


def test_the_interface_is_the_committed_one(pack: ComfyServer) -> None:
    everything = pack.object_info()
    found = {
        name: read_schema(info)
        for name, info in sorted(everything.items())
        if info["python_module"] == "custom_nodes.face2diffusion"
    }
    types = core_types(everything)
    if os.environ.get("F2D_UPDATE_SCHEMA"):
        if NEWER - types:
            pytest.skip("The interface is written by the newest ComfyUI, which has all inputs.")
        COMMITTED.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert found == supported(committed, types), (
        f"Expected the interface of {COMMITTED.name}. Is this change meant? Then run: {UPDATE}"
    )
