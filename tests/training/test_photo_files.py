"""Photos in folders are found once, hashed by content, and what is passed over is listed."""

from __future__ import annotations

from pathlib import Path

from face2diffusion.f2d.image import PHOTO_SUFFIXES
from face2diffusion.training.data.photo_files import hash_photos, log_passed_over, split_files


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"photo")


def test_links_to_a_parent_and_to_a_sibling_add_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "people/b.jpg")
    (tmp_path / "people" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "people")
    assert split_files(tmp_path, PHOTO_SUFFIXES) == (["a.jpg", "people/b.jpg"], [])


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    assert split_files(tmp_path / "photos", PHOTO_SUFFIXES)[0] == ["a.jpg", "more/b.jpg"]


def test_every_other_file_is_passed_over_in_the_open(tmp_path: Path) -> None:
    photos = [f"a{suffix}" for suffix in (".heic", ".jfif", ".jpe", ".avif", ".gif", ".jp2", ".JPG")]
    write(tmp_path, *photos, "b.cr2", "c.txt", "d", ".hidden.jpg")
    found, passed_over = split_files(tmp_path, PHOTO_SUFFIXES)
    assert found == sorted(photos) and passed_over == ["b.cr2", "c.txt", "d"]
    said: list[str] = []
    log_passed_over(said.append, passed_over)
    assert "3 files" in said[0] and "1 .cr2, 1 .txt, 1 without suffix" in said[0] and "b.cr2" in said[0]


def test_an_edited_photo_of_equal_size_changes_the_hash(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg")
    before = hash_photos(tmp_path, ["a.jpg", "b.jpg"])
    assert before == hash_photos(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "b.jpg").write_bytes(b"phot0")
    assert before != hash_photos(tmp_path, ["a.jpg", "b.jpg"])
