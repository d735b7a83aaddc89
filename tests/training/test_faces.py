"""Faces with identities in every layout, whole and damaged."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d.image import to_signed
from face2diffusion.training.data.face_datasets import FaceDataset, RecordFile, open_faces
from face2diffusion.training.data.label_index import index_file
from support.identities import MAGIC, draw, encode, pack_record, write_folders, write_records, write_shard

LABELS = [0, 1, 2, 0, 1, 2, 2]


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [draw(label, number) for number, label in enumerate(LABELS)]


@pytest.fixture
def faces(pictures: list[np.ndarray]) -> list[tuple[bytes, int]]:
    return [(encode(picture), label) for picture, label in zip(pictures, LABELS, strict=True)]


# --- Records ---


@pytest.mark.parametrize("listed", [False, True], ids=["label-in-head", "label-in-array"])
@pytest.mark.parametrize("about", [False, True], ids=["images-only", "with-header-record"])
def test_records_come_back_as_written(tmp_path: Path, faces, pictures, about: bool, listed: bool) -> None:
    found = open_faces(write_records(tmp_path, faces, about, listed))
    assert found.labels.tolist() == LABELS
    assert found.classes == ["0", "1", "2"]
    assert all(np.array_equal(found.load(index, 16), picture) for index, picture in enumerate(pictures))
    assert [found.encoded(index)[0] for index in range(len(found))] == [data for data, _ in faces]


@pytest.mark.parametrize("before", range(4))
def test_records_with_the_magic_number_in_them_are_joined(
    tmp_path: Path, faces, pictures, before: int
) -> None:
    """Only a magic number at a multiple of 4 bytes splits a record."""
    tail = bytes(before) + MAGIC + b"between" + MAGIC + MAGIC
    faces = [(data + bytes(-len(data) % 4) + tail, label) for data, label in faces]
    if before == 0:
        assert (
            pack_record(faces[0][0]).count(MAGIC) == 2 + 2
        )  # one split makes two parts; two magic numbers stand at odd places
    found = open_faces(write_records(tmp_path, faces))
    assert [found.encoded(index)[0] for index in range(len(found))] == [data for data, _ in faces]
    assert np.array_equal(found.load(3, 16), pictures[3])


def test_records_split_within_their_head_keep_their_label(tmp_path: Path, faces) -> None:
    """A record whose id is the magic number."""
    import struct

    write_records(tmp_path, faces, about=False)
    head = struct.pack("<IfQQ", 0, 1, 0xCED7230A, 0)
    with open(tmp_path / "train.rec", "ab") as file, open(tmp_path / "train.idx", "a") as index:
        index.write(f"{len(faces)}\t{file.tell()}\n")
        file.write(pack_record(head + faces[1][0]))
    found = open_faces(tmp_path)
    assert found.labels.tolist() == [*LABELS, 1]
    assert found.encoded(len(LABELS))[0] == faces[1][0]


def test_records_can_go_to_a_worker_process(tmp_path: Path, faces, pictures) -> None:
    found = open_faces(write_records(tmp_path, faces))
    found.load(0, 16)
    assert np.array_equal(pickle.loads(pickle.dumps(found)).load(2, 16), pictures[2])


def test_damaged_records_are_named(tmp_path: Path, faces) -> None:
    record = write_records(tmp_path, faces) / "train.rec"
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train\.rec' ends before \d+ of its \d+ records"):
        open_faces(tmp_path)
    with pytest.raises(ValueError, match="ends within the record at byte"):
        record.write_bytes(whole[:-4])
        open_faces(write_records(tmp_path / "few", faces, about=False))  # fine
        last = tmp_path / "few" / "train.rec"
        last.write_bytes(last.read_bytes()[:-4])
        open_faces(tmp_path / "few").load(len(faces) - 1, 16)
    record.write_bytes(whole[:200] + b"x" + whole[200:])
    with pytest.raises(ValueError, match=r"\d of 7 records of '.*train\.rec' are damaged .*Get train\.rec"):
        open_faces(tmp_path)
    (tmp_path / "train.idx").write_text("0\tabc\n")
    with pytest.raises(ValueError, match="two numbers per line"):
        open_faces(tmp_path)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(FileNotFoundError, match="beside train.rec"):
        open_faces(tmp_path)


def damage(folder: Path, place: int, content: bytes, at: int = 0) -> None:
    """Overwrites bytes of the record that stands at a place of the index."""
    offset = int((folder / "train.idx").read_text().split()[2 * place + 1])
    with open(folder / "train.rec", "r+b") as file:
        file.seek(offset + at)
        file.write(content)


@pytest.mark.parametrize(
    ("content", "at"),
    [(b"\0" * 8, 0), (b"\xff" * 8, 4), (b"\xff\xff\0\0", 8), (b"\0\0\0\x60", 4), (b"\4\0\0\0", 4)],
    ids=[
        "no magic number",
        "too long",
        "more labels than bytes",
        "the end of another",
        "shorter than a head",
    ],
)
@pytest.mark.parametrize("about", [False, True])
def test_damaged_records_are_skipped_and_no_number_changes(
    tmp_path: Path, faces, content: bytes, at: int, about: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(tmp_path, faces, about)
    before = FaceDataset(open_faces(tmp_path), 16)
    damage(tmp_path, 2 + about, content, at)
    found = open_faces(tmp_path)
    assert found.labels.tolist() == [-1 if place == 2 else label for place, label in enumerate(LABELS)]
    assert found.classes == before.faces.classes
    assert f"1 of {len(LABELS)} records" in caplog.text and "are damaged (2)" in caplog.text
    after = FaceDataset(found, 16)
    for number in range(2 * len(LABELS)):
        wanted, mirrored = before.index(number)
        assert after.index(number) == (wanted, mirrored)
        index = 3 if wanted == 2 else wanted  # the next one
        assert after[number]["index"] == index and after[number]["label"] == LABELS[index]
    assert open_faces(tmp_path).fingerprint() == found.fingerprint(), "a run with it resumes"


def test_the_record_about_the_others_may_be_damaged(tmp_path: Path, faces, pictures) -> None:
    write_records(tmp_path, faces)
    damage(tmp_path, 0, b"\0" * 8)
    found = open_faces(tmp_path)
    assert found.labels.tolist() == LABELS
    assert [found.encoded(index)[0] for index in range(len(found))] == [data for data, _ in faces]


def test_an_identity_of_damaged_records_keeps_its_number(tmp_path: Path, faces) -> None:
    write_records(tmp_path, [*faces, (faces[0][0], 3), (faces[1][0], 4)], about=False)
    damage(tmp_path, len(faces), b"\0" * 8)
    found = open_faces(tmp_path)
    assert found.labels.tolist() == [*LABELS, -1, 4] and found.classes == ["0", "1", "2", "3", "4"]


# --- Class folders and shards ---


def test_class_folders_are_numbered_by_name(tmp_path: Path) -> None:
    write_folders(tmp_path, identities=3, photos=2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "person-001" / "notes.txt").write_text("no picture")
    found = open_faces(tmp_path)
    assert found.classes == ["person-000", "person-001", "person-002"]
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(found.load(3, 16), draw(1, 1))


def test_shards_come_back_as_written(tmp_path: Path, faces, pictures) -> None:
    write_shard(tmp_path / "a-000.tar", faces[:4])
    write_shard(tmp_path / "a-001.tar", faces[4:])
    found = open_faces(tmp_path)
    assert found.labels.tolist() == LABELS
    assert all(np.array_equal(found.load(index, 16), picture) for index, picture in enumerate(pictures))
    assert np.array_equal(pickle.loads(pickle.dumps(found)).load(5, 16), pictures[5])


def test_shards_of_the_webdataset_package_can_be_read(tmp_path: Path, faces, pictures) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset: pip install webdataset")
    with webdataset.TarWriter(str(tmp_path / "faces.tar")) as writer:
        for key, (data, label) in enumerate(faces):
            writer.write({"__key__": f"{key:05d}", "png": data, "cls": label})
    found = open_faces(tmp_path)
    assert found.labels.tolist() == LABELS
    assert np.array_equal(found.load(6, 16), pictures[6])


def test_truncated_shards_are_named(tmp_path: Path, faces) -> None:
    shard = write_shard(tmp_path / "a.tar", faces)
    whole = shard.read_bytes().rstrip(b"\0")
    for length in (len(whole) - 300, len(whole) // 2, 700, 100):
        shard.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"shard '.*a\.tar' (is damaged|is truncated)"):
            open_faces(tmp_path)


@pytest.mark.parametrize("label", ["x", ""])
def test_labels_of_shards_are_numbers(tmp_path: Path, faces, label: str) -> None:
    write_shard(tmp_path / "a.tar", [*faces, (faces[0][0], label)])
    with pytest.raises(ValueError, match=r"a\.tar' has a \.cls that is not a whole number"):
        open_faces(tmp_path)


def test_a_shard_with_an_image_without_label_is_refused(tmp_path: Path, faces) -> None:
    import tarfile

    shard = write_shard(tmp_path / "a.tar", faces)
    with tarfile.open(shard, "a") as tar:
        tar.add(__file__, "odd.png")
    with pytest.raises(ValueError, match="image without a .cls, or the reverse, for '/odd'"):
        open_faces(tmp_path)


# --- What is wrong with the labels or the pictures ---


@pytest.mark.parametrize("layout", ["records", "shards"])
def test_labels_with_gaps_are_refused_or_renumbered(
    tmp_path: Path, faces, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    gaps = [(data, 5 * label + 1) for data, label in faces]  # 1, 6, 11
    write_records(tmp_path, gaps) if layout == "records" else write_shard(tmp_path / "a.tar", gaps)
    with pytest.raises(
        ValueError,
        match=r"9 of the labels 0 to 11 in .* have no face \(the first is 0\)",
    ):
        open_faces(tmp_path)
    found = open_faces(tmp_path, remap=True)
    assert found.labels.tolist() == LABELS
    assert found.classes == ["1", "6", "11"]
    assert "Renumbered 3 labels" in caplog.text


@pytest.mark.parametrize("label", [-1, 0.5, float("nan")])
def test_labels_that_are_none_are_refused(tmp_path: Path, faces, label: float) -> None:
    with pytest.raises(ValueError, match="negative, fractions or not finite"):
        open_faces(write_records(tmp_path, [*faces, (faces[0][0], label)], about=False))


def test_one_identity_is_refused(tmp_path: Path, faces) -> None:
    write_records(tmp_path / "records", [(data, 0) for data, _ in faces])
    write_shard(tmp_path / "shards" / "a.tar", [(data, 0) for data, _ in faces])
    write_folders(tmp_path / "folders", identities=1)
    for name in ("records", "shards", "folders"):
        with pytest.raises(ValueError, match="has only the identity '.+'.* Add faces of others"):
            open_faces(tmp_path / name)


def test_places_without_faces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Add --data"):
        open_faces("")
    with pytest.raises(FileNotFoundError, match="There is no '.*nowhere'"):
        open_faces(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no faces in .* Name a folder"):
        open_faces(tmp_path)
    (tmp_path / "file.zip").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"file\.zip' is not a folder of faces, a \.rec or a \.tar"):
        open_faces(tmp_path / "file.zip")


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    write_folders(tmp_path, identities=2, photos=2)
    (tmp_path / "person-000" / "0.png").write_bytes(b"not a picture")
    (tmp_path / "person-000" / "1.png").write_bytes(encode(draw(0, 0)[:10]))
    found = open_faces(tmp_path)
    with pytest.raises(ValueError, match=r"13 bytes at '.*0\.png' are not an image"):
        found.load(0, 16)
    with pytest.raises(ValueError, match=r"1\.png' has 16x10 px, which is not square"):
        found.load(1, 16)
    assert found.load(2, 32).shape == (32, 32, 3)


# --- MapperDataset ---


def test_an_epoch_shows_each_face_once_and_mirrors_half(tmp_path: Path) -> None:
    samples = FaceDataset(open_faces(write_folders(tmp_path, identities=4, photos=50)), 16, seed=1)
    epochs = [[samples.index(number) for number in range(start, start + 200)] for start in (0, 200)]
    for epoch in epochs:
        assert sorted(index for index, _ in epoch) == list(range(200))
        assert 70 < sum(mirrored for _, mirrored in epoch) < 130
    assert epochs[0] != epochs[1]
    assert FaceDataset(samples.faces, 16, seed=1).index(123) == epochs[0][123]
    assert not any(FaceDataset(samples.faces, 16, flip=False).index(number)[1] for number in range(200))


def test_samples_are_faces_and_mirrored_faces(tmp_path: Path) -> None:
    samples = FaceDataset(open_faces(write_folders(tmp_path, identities=3, photos=4)), 16)
    seen = set()
    for number in range(12):
        index, mirrored = samples.index(number)
        sample, face = samples[number], draw(index // 4, index % 4)
        assert np.array_equal(sample["face"].numpy(), face[:, ::-1] if mirrored else face)
        assert (sample["label"], sample["index"]) == (index // 4, index)
        seen.add(mirrored)
    assert seen == {False, True}


def test_the_networks_input_is_that_of_the_library(pictures: list[np.ndarray]) -> None:
    faces = to_signed(torch.from_numpy(np.stack(pictures)))
    assert torch.equal(faces, to_signed(pictures))


# --- Labels that are kept ---


def test_labels_are_read_once(tmp_path: Path, faces, monkeypatch) -> None:
    folder = write_records(tmp_path, faces)
    first = open_faces(folder)
    with monkeypatch.context() as without:
        without.setattr(RecordFile, "_read_labels", None)  # calling it would fail
        kept = open_faces(folder)
    assert np.array_equal(kept.labels, first.labels)
    assert kept.classes == first.classes and kept.fingerprint() == first.fingerprint()


@pytest.mark.parametrize("change", ["time", "index", "damaged"])
def test_labels_of_changed_records_are_read_anew(tmp_path: Path, faces, monkeypatch, change: str) -> None:
    folder = write_records(tmp_path, faces)
    before, reads, read = open_faces(folder), [], RecordFile._read_labels
    if change == "damaged":
        index_file(folder / "train.rec").write_bytes(b"PK")
    else:
        os.utime(folder / f"train.{'rec' if change == 'time' else 'idx'}", (1, 1))
    monkeypatch.setattr(RecordFile, "_read_labels", lambda self: reads.append(1) or read(self))
    for _ in range(2):
        assert np.array_equal(open_faces(folder).labels, before.labels)
    assert len(reads) == 1


def test_labels_that_cannot_be_kept_are_still_read(tmp_path: Path, faces, monkeypatch, caplog) -> None:
    def refuse(path):
        raise PermissionError("read-only")

    monkeypatch.setattr("face2diffusion.training.data.label_index.atomic_file", refuse)
    assert len(open_faces(write_records(tmp_path, faces))) == len(faces)
    assert "read-only" in caplog.text and "every start" in caplog.text


def test_damaged_faces_are_skipped_and_no_number_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folders(tmp_path, identities=2, photos=4)
    before = FaceDataset(open_faces(tmp_path), 16)
    samples = [before[number] for number in range(8)]
    (tmp_path / "person-001" / "2.png").write_bytes(b"nothing")
    after = FaceDataset(open_faces(tmp_path), 16)
    for number in [*range(8), *range(8)]:
        sample, expected = after[number], samples[number]["index"].item()
        assert sample["index"].item() == (7 if expected == 6 else expected)
        assert sample["label"] == samples[number]["label"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "Skipped face 6" in message and "2.png" in message


def test_a_set_of_nothing_but_damaged_faces_stops(tmp_path: Path) -> None:
    write_folders(tmp_path, identities=2, photos=2)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not an image"):
        FaceDataset(open_faces(tmp_path), 16)[0]
