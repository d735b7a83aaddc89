"""The pack as users install it.

The archive's files, in an environment with nothing but ComfyUI's requirements, ours and OpenCV.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from support import graph
from support.archive import copy_pack, shipped_files
from support.inside import run_inside
from support.schema import COMMITTED
from support.server import (
    REPOSITORY,
    ComfyServer,
    MissingComfyUI,
    checkout_version,
    find_checkouts,
    find_python,
)

OURS = REPOSITORY / "requirements.txt"
UNNAMED = "requests\n"  # ComfyUI 0.3.64 imports it and does not name it
OPENCV = "opencv-python\n"  # most packs bring it or one of its other packages, so ours does not name it
COMFY_CLI = shutil.which("comfy")
CHECKOUTS = find_checkouts()


@dataclass(frozen=True)
class Fresh:
    """A checkout whose environment holds ComfyUI's requirements, ours and OpenCV, and another with
    ComfyUI's alone.
    """

    checkout: Path
    bare: Path
    versions: dict[str, str]  # of what ComfyUI brings


@pytest.fixture(
    scope="module",
    params=CHECKOUTS or [None],
    ids=lambda path: checkout_version(path) if path else "no-comfyui",
)
def fresh(
    request: pytest.FixtureRequest, comfy_checkouts: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Fresh:
    """Environments with the same files as after an installation, linked from the checkout's own.

    Gigabytes need no download.
    """
    original: Path = request.param
    try:
        find_python(original)
    except MissingComfyUI as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("fresh")
    for path in original.iterdir():
        if path.name not in (".venv", "venv", "custom_nodes"):
            (folder / path.name).symlink_to(path)
    (folder / "unnamed.txt").write_text(UNNAMED)
    comfyuis = [str(original / "requirements.txt"), str(folder / "unnamed.txt")]
    versions = make_environment(original, folder / "bare", comfyuis)
    (folder / "opencv.txt").write_text(OPENCV)
    make_environment(original, folder / ".venv", [*comfyuis, str(OURS), str(folder / "opencv.txt")])
    return Fresh(folder, folder / "bare", versions)


def make_environment(original: Path, target: Path, requirements: list[str]) -> dict[str, str]:
    """Links what requirement files bring into a new environment; returns the versions by name."""
    found = run_inside(original, "closure", requirements)
    subprocess.run([find_python(original), "-m", "venv", "--without-pip", target], check=True)
    (packages,) = (target / "lib").glob("python*/site-packages")
    for entry in {
        entry for distribution in found.values() for entry in distribution["entries"] if os.path.exists(entry)
    }:
        (packages / Path(entry).name).symlink_to(entry)
    return {name: distribution["version"] for name, distribution in found.items()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """node.zip of `comfy node pack`, in a repository of its own."""
    if COMFY_CLI is None:
        pytest.skip("No comfy-cli: pip install comfy-cli")
    folder = tmp_path_factory.mktemp("archive")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, folder / name)
    subprocess.run("git init -q && git add -A", cwd=folder, shell=True, check=True)
    run_comfy_cli(folder, "pack")
    return folder / "node.zip"


def run_comfy_cli(folder: Path, command: str) -> str:
    """Runs a `comfy node` command in a folder and returns what it prints; its own files go there too."""
    home = {"HOME": str(folder / ".home"), "XDG_CONFIG_HOME": str(folder / ".home")}
    (folder / ".home").mkdir(exist_ok=True)
    done = subprocess.run(
        [str(COMFY_CLI), "--skip-prompt", "node", command],
        cwd=folder,
        env={**os.environ, **home, "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_comfy_cli_selects_the_files_that_the_other_tests_take_for_the_archive(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        assert sorted(name for name in opened.namelist() if not name.endswith("/")) == shipped_files()


def test_comfy_cli_has_no_complaint(archive: Path) -> None:
    printed = run_comfy_cli(archive.parent, "validate")
    assert "warning" not in printed.lower() and "error" not in printed.lower(), printed


def test_installing_changes_nothing_that_comfyui_brought(fresh: Fresh, tmp_path: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("No pip in this environment: python -m ensurepip")
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(fresh.bare / "bin" / "python"),
        "install",
        "--dry-run",
        "--quiet",
    ]
    done = subprocess.run(
        [*command, "--report", str(report), "-r", str(OURS)], capture_output=True, text=True, timeout=300
    )
    if done.returncode and "No matching distribution found" in done.stderr:
        pytest.skip("Needs a package index that has timm.")
    assert done.returncode == 0, done.stderr
    installed = {
        item["metadata"]["name"].lower(): item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    assert {name: version for name, version in installed.items() if name in fresh.versions} == {}
    assert set(installed) == {"timm"}


def test_the_unpacked_archive_runs_the_first_workflow(
    fresh: Fresh, files, detector_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = ComfyServer(fresh.checkout, tmp_path / "comfyui", pack=None)
    unpacked = server.base / "custom_nodes" / "face2diffusion"
    if COMFY_CLI:
        shutil.unpack_archive(request.getfixturevalue("archive"), unpacked)
    else:
        copy_pack(unpacked)
    for file in (files.msid, files.mapper):
        server.place(file, "models", "face2diffusion", file.name)
    server.place(detector_file, "models", "face2diffusion", "face_detection_yunet_2023mar.onnx")
    server.place(files.checkpoint, "models", "checkpoints", files.checkpoint.name)
    server.place(files.photo.read_bytes(), "input", files.photo.name)
    with server:
        assert server.failed_packs() == []
        everything = server.object_info()
        ours = {
            name
            for name, info in everything.items()
            if info["python_module"] == "custom_nodes.face2diffusion"
        }
        assert ours == set(json.loads(COMMITTED.read_text(encoding="utf-8")))
        prompt = graph.to_api(
            json.loads((unpacked / "workflows" / "one_face.json").read_text(encoding="utf-8")), everything
        )
        for node in prompt.values():
            node["inputs"] |= {
                "EmptyLatentImage": {"width": 128, "height": 128},
                "KSampler": {"steps": 2},
            }.get(node["class_type"], {})
        result = server.run(prompt, timeout=300)
        assert result.status == "success", result.message
        (saved,) = (name for name, node in prompt.items() if node["class_type"] == "SaveImage")
        with Image.open(result.file(saved)) as image:
            assert image.size == (128, 128)
        assert server.get_bytes("/extensions/face2diffusion/docs/InjectSStar.md").startswith(b"# ")
        assert server.get_bytes("/api/workflow_templates/face2diffusion/one_face.jpg").startswith(
            b"\xff\xd8\xff"
        )
