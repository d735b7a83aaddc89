"""The nodes' interface as saved graphs depend on it, and which changes break them.

python tests/support/schema.py OLD.json NEW.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).resolve().parents[1] / "comfy" / "schema.json"
FILES = (".pt", ".pth", ".safetensors", ".onnx", ".ckpt")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
KEPT = ("default", "min", "max", "step", "options", "multiline", "dynamicPrompts", "forceInput")

NEWER = {
    "BOUNDING_BOX",
    "FACE_LANDMARKS",
}  # types that ComfyUI 0.3.64 lacks; inputs of them are left out there

Schema = dict[str, Any]


def read_schema(info: dict[str, Any]) -> Schema:
    """Returns a node's interface from /object_info: its inputs in order, and its outputs."""
    inputs = {}
    for section in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(section, {}).items():
            options = {
                key: value
                for key, value in (rest[0] if rest else {}).items()
                if key in KEPT and value is not None and value is not False
            }
            if "options" in options:  # without the files of this machine
                options["options"] = [value for value in options["options"] if not str(value).endswith(FILES)]
            if str(options.get("default", "")).endswith(FILES):
                del options["default"]
            inputs[name] = {"type": kind, "required": section == "required", **options}
    return {
        "inputs": inputs,
        "outputs": [list(pair) for pair in zip(info["output"], info["output_name"], strict=True)],
    }


def supported(schemas: dict[str, Schema], types: set[str]) -> dict[str, Schema]:
    """Returns the interfaces as a ComfyUI with these types has them: without optional inputs of others."""

    def exists(spec: Schema) -> bool:
        return spec["required"] or spec["type"] not in NEWER - types

    return {
        node: {**schema, "inputs": {name: spec for name, spec in schema["inputs"].items() if exists(spec)}}
        for node, schema in schemas.items()
    }


def core_types(everything: dict[str, Any]) -> set[str]:
    """Returns the types that ComfyUI's own nodes put out, from /object_info."""
    return {
        str(kind)
        for info in everything.values()
        if not info["python_module"].startswith("custom_nodes")
        for kind in info["output"]
    }


def breaking_changes(old: dict[str, Schema], new: dict[str, Schema]) -> list[str]:
    """Returns the changes that make a graph saved with the old interface fail or change its meaning."""
    found = []
    for node, was in old.items():
        if node not in new:
            found.append(f"{node} is gone")
            continue
        found += [f"{node}.{change}" for change in _changed_inputs(was["inputs"], new[node]["inputs"])]
        before, after = _widgets(was["inputs"]), _widgets(new[node]["inputs"])
        if (
            set(before) <= set(after) and after[: len(before)] != before
        ):  # saved graphs hold values by their places
            found.append(f"{node}'s widgets are in another order")
        outputs = new[node]["outputs"]
        for slot, (kind, _) in enumerate(was["outputs"]):
            if slot >= len(outputs):
                found.append(f"{node}'s output {slot} is gone")
            elif outputs[slot][0] != kind:
                found.append(f"{node}'s output {slot} is {outputs[slot][0]}, not {kind}")
    return found


def _widgets(inputs: Schema) -> list[str]:
    return [name for name, spec in inputs.items() if spec["type"] in WIDGETS]


def _changed_inputs(old: Schema, new: Schema) -> list[str]:
    found = [f"{name} is gone" for name in old if name not in new]
    found += [f"{name} is new and required" for name in new if name not in old and new[name]["required"]]
    for name in (name for name in old if name in new):
        was, now = old[name], new[name]
        if was["type"] != now["type"]:
            found.append(f"{name} takes {now['type']}, not {was['type']}")
        if lost := [str(value) for value in was.get("options", []) if value not in now.get("options", [])]:
            found.append(f"{name} no longer offers {', '.join(lost)}")
        if was.get("default") != now.get("default"):
            found.append(f"{name} starts as {now.get('default')}, not {was.get('default')}")
    return found


if __name__ == "__main__":
    changes = breaking_changes(
        *(json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
    )
    sys.exit("\n".join(["These changes break saved graphs:", *changes]) if changes else 0)
