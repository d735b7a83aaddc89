"""Conversion of workflows to API format, rule by rule, with a hand-made /object_info."""

from __future__ import annotations

from typing import Any

import pytest
from support.core_workflow import node, workflow
from support.graph import to_api

OBJECT_INFO: dict[str, Any] = {
    "Load": {
        "display_name": "Load a file",
        "input": {"required": {"file": [["a.png", "b.png"], {"image_upload": True}]}},
    },
    "Filter": {
        "display_name": "Filter",
        "input": {
            "required": {
                "image": ["IMAGE"],
                "seed": ["INT", {"default": 0}],
                "mode": ["COMBO", {"options": ["soft", "hard"]}],
            },
            "optional": {
                "mask": ["MASK"],
                "text": ["STRING", {"default": "none", "dynamicPrompts": True}],
                "size": ["INT", {"forceInput": True}],
            },
        },
    },
    "Upload": {
        "display_name": "Upload",
        "input": {
            "required": {"image": ["COMBO", {"options": ["a.png"], "image_upload": True}]},
            "optional": {"strength": ["FLOAT", {"default": 0.5}]},
        },
    },
    "Save": {"display_name": "Save", "input": {"required": {"images": ["IMAGE"]}}},
}


def load(links: list[int], mode: int = 0) -> dict[str, Any]:
    return node(1, "Load", (0, 0), [], [("IMAGE", links)], ["b.png", "image"], mode=mode)


def save(link: int) -> dict[str, Any]:
    return node(9, "Save", (0, 0), [("images", "IMAGE", link)], [])


def convert(*nodes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {number: entry["inputs"] for number, entry in to_api(workflow(list(nodes)), OBJECT_INFO).items()}


def test_widgets_get_names_and_links_become_pairs() -> None:
    assert convert(load([1]), save(1)) == {"1": {"file": "b.png"}, "9": {"images": ["1", 0]}}


def test_class_and_title_are_kept() -> None:
    titled = node(1, "Load", (0, 0), [], [("IMAGE", [])], ["a.png", "image"], title="Mine")
    entry = to_api(workflow([titled]), OBJECT_INFO)["1"]
    assert (entry["class_type"], entry["_meta"]) == ("Load", {"title": "Mine"})
    assert to_api(workflow([load([])]), OBJECT_INFO)["1"]["_meta"] == {"title": "Load a file"}


def test_seed_control_takes_a_value_and_optional_inputs_come_last() -> None:
    filtered = node(2, "Filter", (0, 0), [("image", "IMAGE", 1)], [], [7, "randomize", "hard", "a cat"])
    assert convert(load([1]), filtered)["2"] == {
        "image": ["1", 0],
        "seed": 7,
        "mode": "hard",
        "text": "a cat",
    }


def test_upload_button_takes_a_value_before_optional_widgets() -> None:
    assert convert(node(1, "Upload", (0, 0), [], [], ["a.png", "image", 0.9]))["1"] == {
        "image": "a.png",
        "strength": 0.9,
    }


def test_widgets_missing_in_the_file_get_defaults() -> None:
    assert convert(node(2, "Filter", (0, 0), [], []))["2"] == {"seed": 0, "mode": "soft", "text": "none"}


def test_an_empty_list_of_files_keeps_the_saved_name() -> None:
    empty = {"Load": {"display_name": "Load", "input": {"required": {"file": [[]]}}}}
    assert to_api(workflow([load([])]), empty)["1"]["inputs"] == {"file": "b.png"}


def test_values_may_be_saved_by_name() -> None:
    saved = node(2, "Filter", (0, 0), [], []) | {"widgets_values": {"mode": "hard"}}
    assert convert(saved)["2"]["mode"] == "hard"


def test_lists_are_wrapped() -> None:
    saved = node(2, "Filter", (0, 0), [], [], [[1, 2], "fixed", "soft", ""])
    assert convert(saved)["2"]["seed"] == {"__value__": [1, 2]}


def test_a_link_replaces_a_widget() -> None:
    source = node(3, "Filter", (0, 0), [], [("INT", [4])])
    assert convert(source, node(2, "Filter", (0, 0), [("seed", "INT", 4)], [], [7, "fixed", "soft", ""]))[
        "2"
    ]["seed"] == ["3", 0]


def test_primitives_notes_and_reroutes_disappear() -> None:
    primitive = node(3, "PrimitiveNode", (0, 0), [], [("INT", [4])], [42, "fixed"])
    filtered = node(
        2, "Filter", (0, 0), [("image", "IMAGE", 2), ("seed", "INT", 4)], [], [7, "fixed", "soft", ""]
    )
    reroute = node(5, "Reroute", (0, 0), [("", "*", 1)], [("IMAGE", [2])])
    note = node(6, "MarkdownNote", (0, 0), [], [], ["text"])
    found = convert(load([1]), primitive, filtered, reroute, note)
    assert found.keys() == {"1", "2"}
    assert (found["2"]["image"], found["2"]["seed"]) == (["1", 0], 42)


def test_links_pass_through_a_bypassed_node() -> None:
    bypassed = node(
        2, "Filter", (0, 0), [("mask", "MASK", None), ("image", "IMAGE", 1)], [("IMAGE", [2])], mode=4
    )
    assert convert(load([1]), bypassed, save(2)) == {"1": {"file": "b.png"}, "9": {"images": ["1", 0]}}


def test_links_from_a_muted_node_are_cut() -> None:
    assert convert(load([1], mode=2), save(1)) == {"9": {}}


@pytest.mark.parametrize("text", ["a {red|blue} car", "a car // not red", "/* note */ a car"])
def test_random_prompts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="without braces and comments"):
        convert(node(2, "Filter", (0, 0), [], [], [7, "fixed", "soft", text]))


def test_unknown_node_types_are_named() -> None:
    with pytest.raises(ValueError, match="lacks the node types Missing"):
        convert(node(2, "Missing", (0, 0), [], []))


def test_subgraphs_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="Subgraphs"):
        to_api(
            {
                **workflow([node(2, "some-uuid", (0, 0), [], [])]),
                "definitions": {"subgraphs": [{"id": "some-uuid"}]},
            },
            OBJECT_INFO,
        )
