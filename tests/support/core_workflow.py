"""A saved workflow (version 0.4) of core nodes with everything that `support.graph` converts."""

from __future__ import annotations

from typing import Any

from support.sd1 import CHECKPOINT

Workflow = dict[str, Any]


def core_workflow(image: str) -> Workflow:
    """Returns text to image with notes, primitive, reroute, bypassed LoRA and a muted branch with `image`."""
    nodes = [
        node(
            1,
            "CheckpointLoaderSimple",
            (0, 0),
            [],
            [("MODEL", [1]), ("CLIP", [2, 3]), ("VAE", [4, 16])],
            [CHECKPOINT],
        ),
        node(
            2,
            "LoraLoader",
            (0, 150),
            [("model", "MODEL", 1), ("clip", "CLIP", 2)],
            [("MODEL", [5]), ("CLIP", [6])],
            ["", 1, 1],
            mode=4,
        ),
        node(
            3,
            "CLIPTextEncode",
            (400, 0),
            [("clip", "CLIP", 6)],
            [("CONDITIONING", [7])],
            ["A photo of a person"],
            title="Prompt",
        ),
        node(4, "CLIPTextEncode", (400, 220), [("clip", "CLIP", 3)], [("CONDITIONING", [8])], [""]),
        node(5, "PrimitiveNode", (0, 450), [], [("INT", [9])], [64, "fixed"]),
        node(6, "EmptyLatentImage", (400, 450), [("height", "INT", 9)], [("LATENT", [10])], [64, 512, 1]),
        node(
            7,
            "KSampler",
            (750, 0),
            [
                ("model", "MODEL", 5),
                ("positive", "CONDITIONING", 7),
                ("negative", "CONDITIONING", 8),
                ("latent_image", "LATENT", 10),
            ],
            [("LATENT", [11])],
            [42, "fixed", 2, 7.0, "euler_ancestral", "normal", 1.0],
        ),
        node(8, "VAEDecode", (1100, 0), [("samples", "LATENT", 11), ("vae", "VAE", 4)], [("IMAGE", [12])]),
        node(9, "Reroute", (1100, 150), [("", "*", 12)], [("IMAGE", [13])]),
        node(10, "SaveImage", (1200, 150), [("images", "IMAGE", 13)], [], ["core"]),
        node(11, "Note", (0, 600), [], [], ["A note"]),
        node(12, "MarkdownNote", (0, 720), [], [], ["**A note**"]),
        node(13, "LoadImage", (400, 620), [], [("IMAGE", [14]), ("MASK", [])], [image, "image"]),
        node(
            14,
            "VAEEncode",
            (750, 620),
            [("pixels", "IMAGE", 14), ("vae", "VAE", 16)],
            [("LATENT", [15])],
            mode=2,
        ),
        node(15, "SaveLatent", (1100, 620), [("samples", "LATENT", 15)], [], ["latents/core"]),
    ]
    return workflow(nodes)


def node(
    number: int,
    kind: str,
    position: tuple[int, int],
    inputs: list[tuple[str, str, int | None]],
    outputs: list[tuple[str, list[int]]],
    values: list[Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Returns a node; `inputs` are (name, type, link), `outputs` (type, links)."""
    return {
        "id": number,
        "type": kind,
        "pos": list(position),
        "size": [300, 120],
        "mode": 0,
        "inputs": [_input(*item) for item in inputs],
        "outputs": [{"name": kind, "type": kind, "links": links} for kind, links in outputs],
        "widgets_values": values or [],
        **more,
    }


def workflow(nodes: list[dict[str, Any]]) -> Workflow:
    """Returns a workflow, its link table made from the link numbers at both ends."""
    targets = {
        slot["link"]: (item["id"], index, slot["type"])
        for item in nodes
        for index, slot in enumerate(item["inputs"])
        if slot["link"] is not None
    }
    links = []
    for item in nodes:
        for index, slot in enumerate(item["outputs"]):
            for link in slot["links"]:
                target, target_index, _ = targets[link]
                links.append([link, item["id"], index, target, target_index, slot["type"]])
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "extra": {},
        "version": 0.4,
    }


def _input(name: str, kind: str, link: int | None) -> dict[str, Any]:
    widget = {"widget": {"name": name}} if kind in {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"} else {}
    return {"name": name, "type": kind, "link": link, **widget}
