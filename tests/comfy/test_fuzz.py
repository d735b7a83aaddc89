"""Random legal graphs of all nodes, posted to a real server.

Each ends in a result or in a clear error, and nothing is left behind.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from face2diffusion.f2d.miniature import FILES, WEIGHTS
from PIL import Image
from support import sd1
from support.archive import copy_pack
from support.fuzz import Maker
from support.official import write_mapper, write_msid
from support.server import ComfyServer, MissingComfyUI, NodeError, Result, checkout_version, find_checkouts

SEED = 0
GRAPHS = int(os.environ.get("FUZZ", 500))  # that the checkouts share
OLDER = GRAPHS // 8  # of them for each but the newest
ROUND = 25  # graphs, after which files that were saved meanwhile are among the choices
KEPT = 1  # identities; List Identities runs what follows it once for each
GROWTH = (
    100 * 2**20
)  # bytes, by which the server at rest may hold more in the second half of the rounds than in the first
# The problem, then what to do about it: two sentences, raised on purpose.
CLEAR = re.compile(r"^[^\n]{15,}?[.;:] [A-Za-z][^\n]{8,}\.$")
ON_PURPOSE = re.compile(r"(ValueError|NoFaceError|FileNotFoundError|OSError|ImportError)$")
WRITABLE = (
    "output/",
    "temp/",
    "user/",
    "models/face2diffusion/identities/",
    "models/embeddings/",
    "server.log",
    "comfyui.db",
)
CHECKOUTS = find_checkouts()

BASE = {
    "checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": sd1.CHECKPOINT}},
    "photo": {"class_type": "LoadImage", "inputs": {"image": "face.png"}},
    "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "encoder": {
        "class_type": "LoadFaceEncoder",
        "inputs": {
            "msid": "msid.pt",
            "mapper": "mapping.pt",
            "expression": "expression.safetensors",
            "detector": "yunet.onnx",
        },
    },
    # as in most graphs; encoded once, as it is the same in all of them
    "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["checkpoint", 1], "text": ""}},
}
FACE = [value for number in range(70) for value in (100 + number % 10 * 8, 90 + number // 10 * 10, 1.0)]
POSES: list[Any] = [
    *[[{"people": [{"face_keypoints_2d": FACE}], "canvas_width": 300, "canvas_height": 200}]] * 5,
    [{"people": [], "canvas_width": 64, "canvas_height": 64}],
    [{"people": [{"face_keypoints_2d": FACE[:30]}], "canvas_width": 300, "canvas_height": 200}],
    [{"people": [{"face_keypoints_2d": None}, {}], "canvas_width": 300, "canvas_height": 200}],
    [{"people": [{"face_keypoints_2d": FACE}], "canvas_width": 0, "canvas_height": -1}],
    [{"people": [{"face_keypoints_2d": FACE}], "canvas_width": 10**9, "canvas_height": 1}],
    [{}],
    [],
    {},
    None,
]
# Nodes of ComfyUI that give what ours take and take what ours give, with the values of their widgets; a tuple
# is drawn from.
HELPERS: dict[str, dict[str, Any]] = {
    "LoadImage": {"image": ("face.png", "small.png", "noise.png", "transparent.png")},
    "EmptyImage": {"width": (1, 64, 300), "height": (16, 64), "batch_size": (1, 2), "color": 8421504},
    "ImageBatch": {},
    "EmptyLatentImage": {"width": 64, "height": 64, "batch_size": (1, 2)},
    "CLIPTextEncode": {"text": ("A photo of S*", "(S*:1.3) as a chef", "S1* and S2* on a bench", "")},
    "CLIPSetLastLayer": {"stop_at_clip_layer": (-1, -2, -12)},
    "ConditioningCombine": {},
    "KSampler": {
        "seed": (0, 1),
        "steps": 1,
        "cfg": 7.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "normal",
        "denoise": 1.0,
    },
    "VAEDecode": {},
    "MaskToImage": {},
    "F2DProbeReadPose": {"json": tuple(map(json.dumps, POSES))},
    "PreviewImage": {},
    "SaveImage": {"filename_prefix": "fuzz"},
    "PreviewAny": {},
}
SLOW = {"F2DRefineIdentity"}  # gradient steps; test_refine.py has its own bad inputs


@dataclass
class Bench:
    """A server with a copy of the pack, its folder of temporary files, and the numbers of its graphs."""

    server: ComfyServer
    pack: Path
    temporary: Path
    graphs: range
    newest: bool


@pytest.fixture(
    params=CHECKOUTS[::-1] or [None],  # the most graphs first
    ids=lambda path: checkout_version(path) if path else "no-comfyui",
)
def bench(
    request: pytest.FixtureRequest,
    comfy_checkouts: list[Path],
    sd1_checkpoint: Path,
    files,
    detector_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    """A server of its own for each checkout."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    pack = copy_pack(tmp_path / "pack")
    # With the results of the last graph in the cache; by default, newer versions fill the RAM with results
    # before they drop any.
    server = ComfyServer(request.param, tmp_path / "comfyui", pack, "--cache-classic")
    small = tmp_path / "small"  # most graphs load the encoder anew
    weights = {
        "msid.pt": write_msid(small / "msid.pt", patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3)),
        "mapping.pt": write_mapper(small / "mapping.pt", id_dim=256, hidden_dim=128),
        "wide.pt": write_mapper(small / "wide.pt", id_dim=256, hidden_dim=128, word_dim=1024),
        "expression.safetensors": WEIGHTS / FILES["expression"],
        "epoch_20.pth": files.expression,
        "yunet.onnx": detector_file,
    }
    for name, file in weights.items():
        server.place(file, "models", "face2diffusion", name)
    server.place(sd1_checkpoint, "models", "checkpoints", sd1.CHECKPOINT)
    server.input.mkdir(parents=True)
    face = Image.open(files.photo).convert("RGB").crop((80, 0, 380, 300))
    face.save(server.input / "face.png")
    face.resize((15, 200)).save(server.input / "small.png")
    face.convert("RGBA").rotate(90).save(server.input / "transparent.png")
    Image.effect_noise((64, 300), 90).save(server.input / "noise.png")
    try:
        server.start()
    except MissingComfyUI as error:
        pytest.skip(str(error))
    yield Bench(server, pack, temporary, numbers_of(request.param), request.param == CHECKOUTS[-1])
    server.stop()


def numbers_of(checkout: Path) -> range:
    """Divides the graphs 0 to GRAPHS - 1: first those of the older checkouts, then those of the newest."""
    first = CHECKOUTS.index(checkout) * OLDER
    return range(first, GRAPHS if checkout == CHECKOUTS[-1] else first + OLDER)


@pytest.mark.timeout(3600)
def test_random_graphs_end_in_a_result_or_a_clear_error(bench: Bench, tmp_path: Path) -> None:
    server = bench.server
    tested = {
        kind
        for kind, info in server.object_info().items()
        if info["python_module"] == "custom_nodes.face2diffusion" and kind not in SLOW
    }
    before = tree(server.base), tree(bench.pack), tree(server.checkout)
    outcomes: Counter[str] = Counter()
    worked: Counter[str] = Counter()
    bad, memory = [], []
    for done, number in enumerate(bench.graphs, start=1):
        if done % ROUND == 1:
            saved = sorted((server.base / "models/face2diffusion/identities").rglob("*.safetensors"))
            for file in saved[KEPT:]:
                file.unlink()
            kinds = {*tested, *HELPERS, *(node["class_type"] for node in BASE.values())}
            maker = Maker({kind: server.object_info(kind) for kind in sorted(kinds)}, tested, HELPERS, BASE)
        graph = maker.graph(maker.tested[number % len(maker.tested)], f"{SEED}/{number}")
        result = server.run(graph, timeout=300)
        outcome = judge(result)
        outcomes[outcome] += 1
        if outcome == "result":
            worked.update({node["class_type"] for node in graph.values()} & tested)
        if outcome == "unclear":
            (tmp_path / f"graph_{number}.json").write_text(json.dumps(graph))
            bad.append(f"Graph {SEED}/{number}, {result.status}: {result.message}\n{json.dumps(graph)}")
        if sys.platform == "linux" and done % ROUND == 0:
            memory.append(memory_at_rest(server))

    print(f"\nComfyUI {server.version}: {dict(outcomes)}; results by node {dict(worked)}")
    assert not bad, (
        f"{len(bad)} graphs ended badly. POST /prompt takes each as {{'prompt': graph}}.\n"
        + "\n\n".join(bad[:5])
    )
    assert not bench.newest or set(worked) == tested, f"No results with {tested - set(worked)}."
    assert outcomes["clear error"] > len(bench.graphs) // 20
    assert not server.leaked_models()

    print("RAM at rest, MiB:", *(size >> 20 for size in memory))
    if memory and bench.newest:
        half = len(memory) // 2
        assert median(memory[half:]) - median(memory[:half]) < GROWTH

    new = [
        after - old
        for after, old in zip(
            (tree(server.base), tree(bench.pack), tree(server.checkout)), before, strict=True
        )
    ]
    assert [
        name for name in new[0] if not name.startswith(WRITABLE) or Path(name).name.startswith(".f2d-")
    ] == []
    assert new[1] == new[2] == set()
    assert tree(bench.temporary) == set()


def memory_at_rest(server: ComfyServer) -> int:
    """Returns the bytes that the server holds when the results of the last graph are gone.

    Freed memory that the C library keeps in its heap does not count: it comes to several hundred MiB, depends
    on how the heap is cut up, and jumps by hundreds from one graph to the next, while what is in use stays.
    """
    server.run({"1": {"class_type": "F2DProbeCollectGarbage", "inputs": {}}})
    return server.memory()


def is_on_purpose(error: NodeError) -> bool:
    """Tell whether a node has raised it on purpose, or ComfyUI has refused the graph before the run."""
    return "_" in error.kind or bool(ON_PURPOSE.search(error.kind))


def judge(result: Result) -> str:
    """Returns "result", "clear error" or "unclear"."""
    if any(not (CLEAR.search(error.message) and is_on_purpose(error)) for error in result.errors):
        return "unclear"
    if result.errors:
        return "clear error"
    return "result" if result.status == "success" and result.outputs else "unclear"


def tree(folder: Path) -> set[str]:
    """Returns the paths of all files below a folder, without environments and caches of Python."""
    skipped = {"__pycache__", ".venv", "venv", ".git"}
    found = set()
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped]
        found |= {(Path(directory) / name).relative_to(folder).as_posix() for name in names}
    return found
