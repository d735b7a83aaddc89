"""Fixtures that several test folders share: real ComfyUI servers, Chromium, small model files and the detector."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import sd1
from support.browser import Browser, Frontend, MissingBrowser
from support.server import (
    HOW_TO_GET_COMFYUI,
    REPOSITORY,
    ComfyServer,
    MissingComfyUI,
    checkout_version,
    find_checkouts,
)

COMFY_TESTS = Path(__file__).resolve().parent / "comfy"
DETECTOR = REPOSITORY.parent / "shared" / "models" / "face_detection_yunet_2026may.onnx"
CHECKOUTS = find_checkouts()


# --- Several processes (pytest -n auto --dist loadgroup) ---


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """At most four: each may hold a ComfyUI with a full-size CLIP, 3 GB."""
    return min(4, os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    """What the tests start shares the cores with the other workers: threads beyond them wait for each other."""
    if workers := _workers(config):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def _workers(config: pytest.Config) -> int:
    """Among how many processes the tests are divided; 0 where they run in the one that was started."""
    return getattr(config, "workerinput", {}).get("workercount", 0)


def group_of(item: pytest.Item) -> str:
    """What runs in one process, in order: all tests of one ComfyUI, since they share its server, else those of one file."""
    checkout = getattr(item, "callspec", None) and item.callspec.params.get("comfy")
    return checkout.name if checkout else str(item.path)


# --- ComfyUI, its frontend and model files ---


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks everything in tests/comfy, or with a server, with `comfy`, what uses Chromium with `browser`, and what runs in one process."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if COMFY_TESTS in item.path.parents or "comfy" in fixtures:
            item.add_marker(pytest.mark.comfy)
        if "browser" in fixtures:
            item.add_marker(pytest.mark.browser)
        if _workers(config):
            item.add_marker(pytest.mark.xdist_group(group_of(item)))


@pytest.fixture(scope="session")
def comfy_checkouts() -> list[Path]:
    """The ComfyUI checkouts found; at least one."""
    if not CHECKOUTS:
        pytest.skip(HOW_TO_GET_COMFYUI)
    return CHECKOUTS


@pytest.fixture(scope="session", params=CHECKOUTS or [None], ids=lambda path: checkout_version(path) if path else "no-comfyui")
def comfy(
    request: pytest.FixtureRequest,
    comfy_checkouts: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
    sd1_checkpoint: Path,
    sd1_controlnet: Path,
) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack, the probe nodes and the small SD1 checkpoint and ControlNet; one for each checkout."""
    server = ComfyServer(request.param, tmp_path_factory.mktemp("comfyui"))
    server.place(sd1_checkpoint, "models", "checkpoints", sd1.CHECKPOINT)
    server.place(sd1_controlnet, "models", "controlnet", sd1.CONTROLNET)
    try:
        server.start()
    except MissingComfyUI as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    try:
        with Browser() as running:
            yield running
    except MissingBrowser as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def frontend(comfy: ComfyServer, browser: Browser) -> Iterator[Frontend]:
    """The frontend of `comfy`, opened once for each server."""
    with browser.open(comfy) as page:
        yield page


@pytest.fixture(scope="session")
def sd1_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random single-file SD1 checkpoint with a full-size CLIP-L."""
    return sd1.write_checkpoint(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="session")
def sd1_controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random ControlNet for `sd1_checkpoint`."""
    return sd1.write_controlnet(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="session")
def detector_file() -> Path:
    """YuNet's .onnx file."""
    path = Path(os.environ.get("F2D_TEST_DETECTOR", DETECTOR))
    if not path.is_file():
        pytest.skip(f"No face detector at {path}: set F2D_TEST_DETECTOR to a face_detection_yunet_*.onnx file (OpenCV zoo, 230 KB).")
    return path
