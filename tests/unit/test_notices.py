"""What a running node shows, with stand-ins for ComfyUI."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
from support.comfy_stub import stand_ins


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What ComfyUI's server is asked to show while the node "7" runs: (text, node)."""
    found: list[tuple[str, str]] = []
    utils, server = ModuleType("comfy_execution.utils"), ModuleType("server")
    vars(utils)["get_executing_context"] = lambda: SimpleNamespace(node_id="7")
    instance = SimpleNamespace(send_progress_text=lambda text, node: found.append((text, node)))
    vars(server)["PromptServer"] = SimpleNamespace(instance=instance)
    for name, module in (
        ("comfy_execution", ModuleType("x")),
        ("comfy_execution.utils", utils),
        ("server", server),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return found


def advance(count: int, steps: int, interrupted_at: int | None = None) -> list[int]:
    """Advances through some of `count` photos; returns the steps of the bar."""
    moved: list[int] = []
    with stand_ins():
        notices = importlib.import_module("face2diffusion.nodes.notices")
        vars(sys.modules["comfy"])["utils"] = SimpleNamespace(
            ProgressBar=lambda total: SimpleNamespace(update=lambda step: moved.append(step))
        )

        def stop_if_interrupted() -> None:
            if len(moved) == interrupted_at:
                raise InterruptedError

        notices.throw_exception_if_processing_interrupted = stop_if_interrupted
        progress = notices.Progress(count, "Photo")
        for _ in range(steps):
            progress.advance()
    return moved


def test_each_of_several_photos_is_named(shown: list[tuple[str, str]]) -> None:
    assert advance(3, 3) == [1, 1, 1]
    assert shown == [("Photo 1 of 3", "7"), ("Photo 2 of 3", "7"), ("Photo 3 of 3", "7")]


def test_a_single_photo_needs_no_text(shown: list[tuple[str, str]]) -> None:
    assert advance(1, 1) == [1] and shown == []


def test_an_interrupted_node_stops_before_the_next_photo(shown: list[tuple[str, str]]) -> None:
    with pytest.raises(InterruptedError):
        advance(12, 12, interrupted_at=2)
    assert [text for text, _ in shown] == ["Photo 1 of 12", "Photo 2 of 12"]


def test_a_server_without_progress_text_stops_nothing() -> None:
    assert advance(2, 2) == [1, 1]
