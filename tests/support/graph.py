"""Turns a workflow as the frontend saves it (version 0.4) into the API format that POST /prompt takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Workflow = dict[str, Any]
Prompt = dict[str, Any]
ObjectInfo = dict[str, Any]

MUTED, BYPASSED = 2, 4
NOTES = {"Note", "MarkdownNote"}
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode"}  # exist in the frontend only
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
SEEDS = {"seed", "noise_seed"}
UPLOADS = ("image_upload", "animated_image_upload", "video_upload")
DYNAMIC = re.compile(r"[{}]|//|/\*")  # what the frontend would choose at random or strip from a prompt


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """Returns one node of a prompt in API format."""
    return {"class_type": kind, "inputs": inputs}


def to_api(workflow: Workflow, object_info: ObjectInfo) -> Prompt:
    """Returns the prompt of a workflow, as graphToPrompt does, given /object_info of its nodes."""
    graph = _Graph(workflow)
    active = [
        node
        for node in graph.nodes.values()
        if node["type"] not in VIRTUAL and node.get("mode", 0) not in (MUTED, BYPASSED)
    ]
    if missing := sorted({node["type"] for node in active} - object_info.keys()):
        raise ValueError(f"The server lacks the node types {', '.join(missing)}. Install their packs.")
    prompt = {
        str(node["id"]): {
            "inputs": _inputs(node, object_info[node["type"]], graph),
            "class_type": node["type"],
            "_meta": {"title": node.get("title") or object_info[node["type"]]["display_name"]},
        }
        for node in active
    }
    for entry in prompt.values():
        entry["inputs"] = {
            name: value for name, value in entry["inputs"].items() if not _dangles(value, prompt)
        }
    return prompt


def _inputs(node: dict[str, Any], info: dict[str, Any], graph: _Graph) -> dict[str, Any]:
    """Returns widget values first, then links, which replace the value of a widget of the same name."""
    inputs = _widget_values(node, info)
    for slot in node.get("inputs", []):
        if slot.get("link") is None:
            continue
        source = graph.source(slot["link"])
        if isinstance(source, _Constant):
            inputs[slot["name"]] = source.value
        elif source is not None:
            inputs[slot["name"]] = list(source)
    return inputs


def _dangles(value: Any, prompt: Prompt) -> bool:
    """Tells whether an input is a link from a node that is not in the prompt, because it is muted."""
    return isinstance(value, list) and value[0] not in prompt


def _widget_values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Names the saved `widgets_values`; widgets newer than the file get their defaults."""
    saved = node.get("widgets_values") or []
    named = saved if isinstance(saved, dict) else dict(zip(_widget_slots(info), saved, strict=False))
    values = {}
    for name, kind, options in _widgets(info):
        value = named.get(name, _default(kind, options))
        if options.get("dynamicPrompts") and isinstance(value, str) and DYNAMIC.search(value):
            raise ValueError(
                f"Node {node['id']}: expected a prompt without braces and comments, got {value!r}."
            )
        values[name] = {"__value__": value} if isinstance(value, list) else value
    return values


def _widgets(info: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yields (name, type, options) of the widgets in the order of `widgets_values`: required first."""
    for section in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(section, {}).items():
            options = rest[0] if rest else {}
            if kind == "COMFY_DYNAMICCOMBO_V3":
                raise NotImplementedError(f"Input {name}: dynamic combos are not converted.")
            if (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput"):
                yield name, kind, options


def _widget_slots(info: dict[str, Any]) -> Iterator[str]:
    """Yields a name for each entry of `widgets_values`, including seed controls and upload buttons."""
    required = info["input"].get("required", {})
    has_upload = any(rest and any(rest[0].get(key) for key in UPLOADS) for _, *rest in required.values())
    last_required = next((name for name, *_ in reversed(list(_widgets(info))) if name in required), None)
    for name, kind, options in _widgets(info):
        yield name
        if options.get("control_after_generate", kind == "INT" and name in SEEDS):
            yield f"{name}/control_after_generate"
            if kind != "INT":
                yield f"{name}/control_filter_list"
        if has_upload and name == last_required:
            yield "upload"


def _default(kind: Any, options: dict[str, Any]) -> Any:
    """Returns what the frontend shows in a new widget."""
    choices = (kind if isinstance(kind, list) else options.get("options")) or [None]
    return options.get(
        "default", {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}.get(str(kind), choices[0])
    )


class _Constant:
    """The value that a PrimitiveNode hands to the widgets it is linked to."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Graph:
    """Nodes by id, and where links really start."""

    def __init__(self, workflow: Workflow) -> None:
        self.nodes: dict[int, dict[str, Any]] = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[int, list[Any]] = {link[0]: link for link in workflow["links"]}
        subgraphs = {graph["id"] for graph in workflow.get("definitions", {}).get("subgraphs", [])}
        if used := subgraphs & {node["type"] for node in workflow["nodes"]}:
            raise NotImplementedError(f"Subgraphs are not converted: {', '.join(sorted(used))}.")

    def source(self, link: int | None) -> tuple[str, int] | _Constant | None:
        """Follows a link through reroutes and bypassed nodes to (node id, output), a constant or None."""
        while link is not None:
            _, start, output, _, _, kind = self.links[link]
            node = self.nodes[start]
            if node["type"] == "PrimitiveNode":
                return _Constant(node["widgets_values"][0])
            if node["type"] == "Reroute":
                link = node["inputs"][0].get("link")
            elif node.get("mode", 0) == BYPASSED:
                link = _bypass(node, output, kind)
            else:
                return str(start), output
        return None


def _bypass(node: dict[str, Any], output: int, kind: str) -> int | None:
    """Returns the link that replaces a bypassed output: its neighbor's, else the first of its type."""
    inputs = node.get("inputs", [])
    beside = [slot for slot in inputs[output : output + 1] if slot["type"] == kind]
    matching = [*beside, *(slot for slot in inputs if slot["type"] == kind)]
    return matching[0].get("link") if matching else None
