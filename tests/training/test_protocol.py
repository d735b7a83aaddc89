"""The prompts of Table 7, the layout, and the scan of a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from face2diffusion.f2d.image import save_png
from face2diffusion.training.evaluation.protocol import (
    BASE,
    LOCATIONS,
    PROMPTS,
    RECORD,
    Protocol,
    Slot,
    check_not_empty,
    divide,
    scan,
    write_manifest,
)
from PIL.PngImagePlugin import PngImageFile

GRAY = np.full((32, 32, 3), 128, np.uint8)
PROTOCOL = Protocol(("alice", "bob"), (0, 39), 2, 32)


def put(folder: Path, *names: str) -> None:
    for name in names:
        save_png(folder / name, GRAY, {RECORD: name})


def test_table_7() -> None:
    assert len(set(PROMPTS)) == 40
    assert all(prompt.startswith("A photo of S* ") for prompt in PROMPTS)
    assert (
        PROMPTS[2] == "A photo of S* as a chef"
        and "café" in PROMPTS[13]
        and PROMPTS[26].endswith("thumbs-up")
    )
    assert [PROMPTS[place].split()[-1] for place in LOCATIONS] == [
        "China", "Picchu", "House", "Colosseum", "sunset", "Tokyo", "Venice", "India", "Camp", "Falls",
    ]  # fmt: skip


def test_the_papers_protocol_has_16000_images() -> None:
    protocol = Protocol(tuple(f"{number:03d}" for number in range(100)))
    assert len(list(protocol.slots())) == 16_000
    assert len({slot.name for slot in [*protocol.slots(), *protocol.base_slots()]}) == 16_100


def test_each_image_has_its_own_noise_by_a_rule_anyone_can_follow() -> None:
    """SHA-256 of the path alone, so that neither the method nor the order of generation matters."""
    protocol = Protocol(tuple(f"{number:03d}" for number in range(100)))
    seeds = [slot.noise_seed for slot in [*protocol.slots(), *protocol.base_slots()]]
    assert len(set(seeds)) > 16_090
    assert min(seeds) >= 0 and max(seeds) < 2**32
    assert Slot("alice", 13, 2).noise_seed == int(hashlib.sha256(b"alice/13/2.png").hexdigest()[:8], 16)


@pytest.mark.parametrize("slot", [Slot("alice", 0, 3), Slot("b.ob (2)", 39, 10), Slot("é", BASE, 0)])
def test_names_are_parsed(slot: Slot) -> None:
    assert Slot.parse(slot.name) == slot


@pytest.mark.parametrize(
    "name",
    [
        "alice/40/0.png",
        "alice/00/0.png",
        "alice/0/01.png",
        "alice/0/0.jpg",
        "0/0.png",
        "a/b/0/0.png",
        "alice/x/0.png",
    ],
)
def test_other_names_are_outside_the_layout(name: str) -> None:
    assert Slot.parse(name) is None


@pytest.mark.parametrize(
    ("prompts", "count", "match"),
    [
        ((), 4, "each once"),
        ((40,), 4, "40.*0 to 39"),
        ((1, 1), 4, "each once"),
        ((1,), 0, "0 images.*at least 1"),
    ],
)
def test_invalid_protocols_are_refused(prompts: tuple[int, ...], count: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Protocol(("alice",), prompts, count)


def test_a_scan_finds_present_missing_broken_and_unexpected_images(tmp_path: Path) -> None:
    put(tmp_path, "alice/0/0.png", "alice/39/1.png", "alice/base/0.png", "bob/0/0.png", "bob/0/1.png")
    put(tmp_path, "alice/0/7.png", "carol/0/0.png", "bob/40/0.png")
    whole = (tmp_path / "bob/0/0.png").read_bytes()
    (tmp_path / "bob/0/0.png").write_bytes(whole[: len(whole) - 40])
    save_png(tmp_path / "bob/0/1.png", GRAY[:16, :16])
    (tmp_path / "notes.txt").write_text("no image")
    found = scan(tmp_path, PROTOCOL)
    assert found.present == {
        slot: slot.name for slot in (Slot("alice", BASE, 0), Slot("alice", 0, 0), Slot("alice", 39, 1))
    }
    assert [slot.name for slot in found.missing] == [
        "alice/0/1.png",
        "alice/39/0.png",
        "bob/39/0.png",
        "bob/39/1.png",
        "bob/base/0.png",
    ]
    assert {slot.name: why.partition(" (")[0] for slot, why in found.broken.items()} == {
        "bob/0/0.png": "damaged",
        "bob/0/1.png": "16x16 px, not 32x32 px",
    }
    assert found.unexpected == ("alice/0/7.png", "bob/40/0.png", "carol/0/0.png")
    manifest = json.loads(
        write_manifest(tmp_path, "F2D", PROTOCOL, found, generation={"steps": 30}).read_text()
    )
    assert (manifest["expected"], manifest["present"]) == (10, 3)
    assert manifest["missing"] == [slot.name for slot in found.missing]
    assert manifest["generation"] == {"steps": 30}


def test_a_scan_decodes_no_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scorer decodes each, once; a checksum tells a damaged one before."""
    protocol = Protocol(("ann",), (0,), 2, 16)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for slot in protocol.slots():
        save_png(tmp_path / slot.name, noise, {RECORD: "made of"})
    content = bytearray((tmp_path / "ann/0/1.png").read_bytes())
    content[-100] ^= 1  # inside the pixels
    (tmp_path / "ann/0/1.png").write_bytes(content)

    def load(self: PngImageFile) -> None:
        raise AssertionError("a PNG was decoded")

    monkeypatch.setattr(PngImageFile, "load", load)
    found = scan(tmp_path, protocol)
    assert {slot.name: record for slot, record in found.present.items()} == {"ann/0/0.png": "made of"}
    assert [slot.name for slot in found.broken] == ["ann/0/1.png"]


def test_a_folder_without_an_image_to_score_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "alice/base/0.png")
    with pytest.raises(ValueError, match=r"no image to score\. Name images identity/prompt_index/seed\.png"):
        check_not_empty(scan(tmp_path, PROTOCOL), tmp_path)
    put(tmp_path, "alice/chef/0.png")
    with pytest.raises(ValueError, match=r"1 other image\(s\) \(first: alice/chef/0.png\)"):
        check_not_empty(scan(tmp_path, PROTOCOL), tmp_path)
    save_png(tmp_path / "alice/0/0.png", GRAY[:16])
    with pytest.raises(ValueError, match=r"alice/0/0.png: 32x16 px, not 32x32 px"):
        check_not_empty(scan(tmp_path, PROTOCOL), tmp_path)


@pytest.mark.parametrize(("count", "world"), [(10, 3), (2, 4), (0, 2), (7, 1)])
def test_processes_divide_all_items_without_overlap(count: int, world: int) -> None:
    parts = [divide(list(range(count)), rank, world) for rank in range(world)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
