"""Weight files: their kinds, what a round trip keeps, and writing that never leaves half a file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d import FaceEncoder, FaceIdentity
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.checkpoint_kinds import KIND_NAMES
from face2diffusion.f2d.diffusion.clip_weights import read_position_embedding
from face2diffusion.f2d.files import atomic_file, fingerprint, hash_file, write_json, write_text
from face2diffusion.f2d.networks.loading import build_config, load_strictly
from face2diffusion.f2d.networks.mapping import MapperConfig
from face2diffusion.f2d.tensor_files import read_tensors
from safetensors import safe_open
from safetensors.torch import save_file

FOREIGN = {
    "a Stable Diffusion checkpoint": "model.diffusion_model.input_blocks.0.0.weight",
    "a ControlNet": "control_model.input_blocks.0.0.weight",
    "a LoRA": "lora_unet_down_blocks_0_attentions_0.lora_down.weight",
    "a textual-inversion embedding": "emb_params",
    "a CLIP text encoder": "text_model.embeddings.token_embedding.weight",
}


@dataclass(frozen=True)
class Sizes:
    width: int = 4
    ratio: float = 1.0
    depths: tuple[int, ...] = (1, 2)
    name: str = "plain"


@pytest.mark.parametrize(
    ("file", "kind", "count"),
    [("msid.pt", "msid", 178), ("mapping.pt", "mapper", 13), ("epoch_20.pth", "expression", 332)],
)
def test_official_files_are_recognized_by_their_tensors(
    official: Path, file: str, kind: str, count: int
) -> None:
    checkpoint = read(official / file)
    assert (checkpoint.kind, len(checkpoint.tensors), checkpoint.config, checkpoint.metadata) == (
        kind,
        count,
        None,
        {},
    )
    assert checkpoint.expect(kind) is checkpoint


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_our_files_are_recognized_by_their_metadata(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "file.safetensors", {"any": torch.zeros(2)}, kind)
    checkpoint = read(tmp_path / "file.safetensors")
    assert checkpoint.kind == kind and checkpoint.described == KIND_NAMES[kind]


@pytest.mark.parametrize(("what", "name"), FOREIGN.items(), ids=FOREIGN.values())
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_peoples_files_are_called_by_their_name(
    tmp_path: Path, what: str, name: str, suffix: str
) -> None:
    path = tmp_path / f"file{suffix}"
    (torch.save if suffix == ".pt" else save_file)({name: torch.zeros(2, 768), "other": torch.zeros(1)}, path)
    assert read(path).kind is None
    assert read(path).described == what


def test_unknown_files_are_described_by_their_first_tensor(tmp_path: Path) -> None:
    save_file({"strange.weight": torch.zeros(1)}, tmp_path / "file.safetensors")
    assert (
        "1 tensors of another model (the first is 'strange.weight')"
        in read(tmp_path / "file.safetensors").described
    )


def test_round_trip_keeps_tensors_config_and_entries(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(5), "c": torch.randn(4, 3).half().T}
    save(
        tmp_path / "new" / "folder" / "file.safetensors",
        tensors,
        "mapper",
        Sizes(width=7, depths=(3,)),
        note="hello",
    )
    checkpoint = read(tmp_path / "new" / "folder" / "file.safetensors")
    assert all(
        torch.equal(checkpoint.tensors[name], tensor) and checkpoint.tensors[name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )
    assert checkpoint.metadata["note"] == "hello"
    assert build_config(Sizes, checkpoint.config, checkpoint.path) == Sizes(width=7, depths=(3,))


def test_written_files_are_plain_safetensors_with_json_in_the_metadata(tmp_path: Path) -> None:
    save(tmp_path / "file.safetensors", {"a": torch.zeros(1)}, "mapper", MapperConfig())
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["f2d.kind"] == "mapper"
    assert json.loads(metadata["f2d.config"])["positional"] == "replace"


def test_config_keeps_defaults_of_missing_fields_and_takes_whole_numbers_for_floats() -> None:
    assert build_config(Sizes, {"ratio": 2}, "file") == Sizes(ratio=2.0)


def test_converted_file_has_the_same_fingerprint(
    small: FaceEncoder, small_files: Path, tmp_path: Path
) -> None:
    save(tmp_path / "msid.safetensors", read(small_files / "msid.pt").tensors, "msid", small.msid.config)
    converted = FaceEncoder.load(tmp_path / "msid.safetensors", small_files / "mapping.pt")
    assert converted.msid_fingerprint == small.msid_fingerprint
    assert fingerprint(read(tmp_path / "msid.safetensors").tensors) == fingerprint(
        read(small_files / "msid.pt").tensors
    )


def test_fingerprint_does_not_depend_on_order_or_memory_layout() -> None:
    a, b = torch.randn(3, 4), torch.randn(2)
    assert fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a.T.contiguous().T})
    assert len(fingerprint({"a": a})) == 64


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.5])},
        {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])},
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)},
        {"b": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]).view(torch.int32)},
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.zeros(0)},
    ],
    ids=["value", "shape", "precision", "name", "same bytes", "more"],
)
def test_fingerprint_tells_different_tensors_apart(other: dict) -> None:
    assert fingerprint({"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}) != fingerprint(other)


def test_strict_loading_copies_every_tensor() -> None:
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    load_strictly(module, other.state_dict(), "file")
    assert torch.equal(module.weight, other.weight) and torch.equal(module.bias, other.bias)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("bias"), r"1 missing \(bias\)"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"1 unknown \(extra\)"),
        (
            lambda tensors: tensors.update(bias=torch.zeros(5)),
            r"1 of another shape \(bias \(5,\) instead of \(2,\)\)",
        ),
        (
            lambda tensors: tensors.update({f"x{i}": torch.zeros(1) for i in range(9)}),
            r"9 unknown \(x0, x1, x2, \.\.\.\)",
        ),
    ],
)
def test_strict_loading_names_what_differs(change, words: str) -> None:
    tensors = dict(torch.nn.Linear(3, 2).state_dict())
    change(tensors)
    with pytest.raises(ValueError, match=rf"'file' does not fit Linear, which has 2 tensors: {words}"):
        load_strictly(torch.nn.Linear(3, 2), tensors, "file")


def test_optional_tensors_may_be_missing_but_not_wrong() -> None:
    tensors = {"weight": torch.zeros(2, 3)}
    load_strictly(torch.nn.Linear(3, 2), tensors, "file", optional=("bias",))
    with pytest.raises(ValueError, match="another shape"):
        load_strictly(torch.nn.Linear(3, 2), {**tensors, "bias": torch.zeros(9)}, "file", optional=("bias",))


def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="broken"), atomic_file(target) as temporary:
        Path(temporary).write_text("half of the new")
        raise RuntimeError("broken")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_writing_replaces_the_old_file_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with atomic_file(target) as temporary:
        Path(temporary).write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no open file")
def test_reader_of_the_old_file_never_sees_the_new(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with target.open() as reader:
        with atomic_file(target) as temporary:
            Path(temporary).write_text("new")
        assert reader.read() == "old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    FaceIdentity(torch.zeros(2), "abc").save(tmp_path / "identity.safetensors")
    assert stat.S_IMODE((tmp_path / "identity.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "usual").stat().st_mode
    )


def test_writing_leaves_the_permissions_of_other_threads_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask for new files belongs to the whole process."""
    monkeypatch.setattr(
        os, "umask", lambda mask: pytest.fail("Expected the process's mask to stay as it is.")
    )
    save(tmp_path / "file.safetensors", {"a": torch.zeros(1)}, "mapper")


@pytest.mark.parametrize("name", ["FILE.SAFETENSORS", "file.Sft"])
def test_ending_may_be_in_capitals(tmp_path: Path, name: str) -> None:
    position = torch.randn(77, 8)
    save(tmp_path / name, {"text_model.embeddings.position_embedding.weight": position}, "mapper")
    assert read(tmp_path / name).kind == "mapper"
    assert torch.equal(read_position_embedding(tmp_path / name), position)


def test_paths_with_spaces_dots_and_letters_of_any_script_work(tmp_path: Path) -> None:
    (tmp_path / "some folder").mkdir()
    path = tmp_path / "some folder" / ".." / "顔 für" / "日本.v1.safetensors"
    FaceIdentity(torch.ones(3), "abc").save(path)
    assert FaceIdentity.load(path).msid == "abc"


def test_text_and_json_are_written_with_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "é\n顔")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\n顔".encode()
    write_json(tmp_path / "a.json", {"name": "é", "list": [1]}, indent=1)
    assert (tmp_path / "a.json").read_bytes() == b'{\n "name": "\\u00e9",\n "list": [\n  1\n ]\n}\n'
    write_json(tmp_path / "a.json", {"name": "é"}, indent=None, ensure_ascii=False)
    assert (tmp_path / "a.json").read_bytes() == '{"name": "é"}\n'.encode()


def test_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_wanted_tensors_only_are_read(tmp_path: Path) -> None:
    tensors = {"keep.a": torch.ones(2), "drop.b": torch.zeros(2)}
    save_file(tensors, tmp_path / "file.safetensors", {"note": "x"})
    torch.save({"module." + name: tensor for name, tensor in tensors.items()}, tmp_path / "file.pt")
    for name, metadata in (("file.safetensors", {"note": "x"}), ("file.pt", {})):
        found = read_tensors(tmp_path / name, "a file", lambda key: key.startswith("keep"))
        assert list(found[0]) == ["keep.a"] and torch.equal(found[0]["keep.a"], torch.ones(2))
        assert found[1] == metadata


WRAPPERS = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_names_of_wrapped_networks_are_understood(
    small_files: Path, tmp_path: Path, prefix: str, suffix: str
) -> None:
    """As DistributedDataParallel and torch.compile leave them, nested in any order."""
    plain = read(small_files / "mapping.pt")
    wrapped = {f"{prefix}{name}": tensor.contiguous() for name, tensor in plain.tensors.items()}
    path = tmp_path / f"wrapped{suffix}"
    save_file(wrapped, path) if suffix == ".safetensors" else torch.save(wrapped, path)
    found = read(path)
    assert found.kind == "mapper"
    assert fingerprint(found.tensors) == fingerprint(plain.tensors)


def test_tensors_of_a_wrapped_file_are_chosen_by_their_own_names(tmp_path: Path) -> None:
    save_file({"_orig_mod.a": torch.ones(1), "_orig_mod.b": torch.zeros(1)}, tmp_path / "a.safetensors")
    tensors, _ = read_tensors(tmp_path / "a.safetensors", "a test", lambda name: name == "a")
    assert list(tensors) == ["a"] and tensors["a"].item() == 1
