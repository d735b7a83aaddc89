"""The tiers, and what several test folders share: ComfyUI servers, Chromium, model files and the detector."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import sd1
from support.browser import Browser, Frontend, MissingBrowser
from support.official import write_official
from support.server import (
    HOW_TO_GET_COMFYUI,
    REPOSITORY,
    ComfyServer,
    MissingComfyUI,
    checkout_version,
    find_checkouts,
)
from support.shared import make_once

TESTS = Path(__file__).resolve().parent
DETECTOR = REPOSITORY.parent / "shared" / "models" / "face_detection_yunet_2026may.onnx"
CHECKOUTS = find_checkouts()
FUZZ = TESTS / "comfy" / "test_fuzz.py"  # has servers of its own
LONGEST = (  # the order in which files are dealt out to the workers; all others come after them
    TESTS / "comfy",
    FUZZ,
    TESTS / "training" / "test_miniature.py",
    TESTS / "training" / "test_mistakes.py",
    TESTS / "training" / "test_mapper.py",
    TESTS / "unit" / "test_demo.py",
    TESTS / "training" / "test_msid.py",
    TESTS / "training" / "test_kills.py",
    TESTS / "training" / "test_prepare.py",
)


# --- Several processes (pytest -n auto) ---


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """At most four: each may hold a ComfyUI with a full-size CLIP, 3 GB."""
    return min(4, os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps the tests of one file, or of one running ComfyUI, in one worker, which makes fixtures once."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # the order is that of LONGEST
    versions = {checkout_version(path) for path in CHECKOUTS}

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            version = next((part for part in re.split(r"[][-]", test) if part in versions), "")
            alone = file.endswith(FUZZ.name)
            return f"{file}[{version}]" if alone or not version else version

        def _assign_work_unit(self, node: Any) -> None:
            """Deals out the next file; behind FUZZ, one test of minutes, the last: a short one."""
            if FUZZ.name in next(reversed(self.assigned_work.get(node, {})), ""):
                self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
            super()._assign_work_unit(node)

    return Scheduling(config, log)


def divide_cores(config: pytest.Config) -> None:
    """Gives each worker, and all that it starts, its share of the cores: threads beyond them only wait.

    torch is imported by now and has read OMP_NUM_THREADS.
    """
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        share = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        os.environ.setdefault("OPENCV_FOR_THREADS_NUM", share)
        torch.set_num_threads(int(share))


# --- Tiers ---


def pytest_configure(config: pytest.Config) -> None:
    """Runs all tests of a file that is named, in whatever tier; `-m` of addopts is for folders."""
    divide_cores(config)
    defaults = config.getini("addopts")
    fast = defaults[defaults.index("-m") + 1]
    if config.option.markexpr == fast and any(".py" in argument for argument in config.args):
        config.option.markexpr = ""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Marks tests in ComfyUI with `comfy`, those that also need Chromium with `browser`, and the benchmarks.

    Once `-m` has selected by the marks, what takes longest goes to the front: the short files at the end let
    all workers end together.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "browser" in fixtures:
            item.add_marker(pytest.mark.browser)
        elif TESTS / "comfy" in item.path.parents:
            item.add_marker(pytest.mark.comfy)
        if TESTS / "benchmarks" in item.path.parents:
            item.add_marker(pytest.mark.benchmark)
    yield
    items.sort(key=lambda item: rank(item.path))


def rank(path: Path) -> int:
    """Gives a file's place in LONGEST: its own, else its folder's, else the last."""
    return next((LONGEST.index(one) for one in (path, path.parent) if one in LONGEST), len(LONGEST))


# --- ComfyUI, its frontend and model files ---


@pytest.fixture(scope="session")
def comfy_checkouts() -> list[Path]:
    """The ComfyUI checkouts found; at least one."""
    if not CHECKOUTS:
        pytest.skip(HOW_TO_GET_COMFYUI)
    return CHECKOUTS


@pytest.fixture(
    scope="session",
    params=CHECKOUTS or [None],
    ids=lambda path: checkout_version(path) if path else "no-comfyui",
)
def comfy(
    request: pytest.FixtureRequest,
    comfy_checkouts: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
    sd1_checkpoint: Path,
    sd1_controlnet: Path,
) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack, the probe nodes, the small SD1 checkpoint and the ControlNet.

    One per checkout.
    """
    server = ComfyServer(request.param, tmp_path_factory.mktemp("comfyui"))
    server.place(sd1_checkpoint, "models", "checkpoints", sd1.CHECKPOINT)
    server.place(sd1_controlnet, "models", "controlnet", sd1.CONTROLNET)
    try:
        server.start()
    except MissingComfyUI as error:
        pytest.skip(str(error))
    yield server
    server.stop()
    assert not server.leaked_models()


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


# --- Files that all workers share ---


@pytest.fixture(scope="session")
def sd1_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random single-file SD1 checkpoint with a full-size CLIP-L."""
    return make_once(tmp_path_factory, "sd1", sd1.write_checkpoint) / sd1.CHECKPOINT


@pytest.fixture(scope="session")
def sd1_controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random ControlNet for `sd1_checkpoint`."""
    return make_once(tmp_path_factory, "controlnet", sd1.write_controlnet) / sd1.CONTROLNET


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights in the official formats and sizes, and a portrait.

    msid.pt, mapping.pt, epoch_20.pth, wide.pt (a mapper for Stable Diffusion 2), photo.png
    """
    return make_once(tmp_path_factory, "official", write_official)


@pytest.fixture(scope="session")
def detector_file() -> Path:
    """YuNet's .onnx file."""
    path = Path(os.environ.get("F2D_TEST_DETECTOR", DETECTOR))
    if not path.is_file():
        pytest.skip(
            f"No face detector at {path}. Run `f2d download yunet --to FOLDER` (230 KB) "
            "and name the file in F2D_TEST_DETECTOR."
        )
    return path
