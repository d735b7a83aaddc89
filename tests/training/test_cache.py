"""The cache's format: random access, streaming, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import pickle
import tarfile

import pytest
import torch
from face2diffusion.f2d import files
from face2diffusion.training.data import cache as module
from face2diffusion.training.data.cache import (
    CacheInfo,
    LatentCache,
    begin_cache,
    read_info,
    write_report,
    write_shard,
)
from safetensors.torch import load
from support.cache import VAE, write_cache


@pytest.fixture
def folder(tmp_path):
    """A cache of 6 photos in shards of 4 and 2."""
    return write_cache(tmp_path / "cache", count=6, skipped=2)


def test_random_access_gives_what_was_written(folder):
    cache = LatentCache(folder, verify=True)
    assert len(cache) == 6
    with tarfile.open(folder / "shard-000001.tar") as archive:
        second = load(archive.extractfile("00000005.safetensors").read())
    for flip in (False, True):
        item = cache.load(5, flip)
        assert item.keys() == {"latent_mean", "latent_std", "v_id", "v_exp", "mask"}
        for name, tensor in item.items():
            assert torch.equal(tensor, second[name][int(flip)])
    assert item["latent_mean"].shape == item["latent_std"].shape == (4, 8, 8)
    assert item["mask"].shape == (8, 8)
    assert (item["v_id"].shape, item["v_exp"].shape) == ((1536,), (64,))
    assert [item[name].dtype for name in ("latent_mean", "mask", "v_id")] == [
        torch.float16,
        torch.float16,
        torch.float32,
    ]
    assert [cache.name(index) for index in (0, 3, 4, 5)] == [f"faces/{index}.jpg" for index in (0, 3, 4, 5)]
    for index in (-1, 6):
        with pytest.raises(IndexError, match=f"no photo {index}; the cache has 6"):
            cache.load(index)


def test_the_cache_says_what_made_it(folder):
    cache = LatentCache(folder)
    assert (cache.latent_size, cache.image_size, cache.id_dim, cache.exp_dim) == (8, 64, 1536, 64)
    assert (cache.depths, cache.normed) == ((1, 2, 3, 4), (1, 2, 3, 4))
    assert cache.vae == VAE
    cache.check(vae=VAE, msid=cache.msid)
    with pytest.raises(ValueError, match=r"vae weights \(00000000\) are not those .*\(55555555\). Use those"):
        cache.check(vae="0" * 64)
    with pytest.raises(ValueError, match=r"expression weights \(11111111\) are not those .*\(none\)"):
        cache.check(expression="1" * 64)


def test_caches_go_to_loader_processes(folder):
    cache = LatentCache(folder)
    before = cache.load(2)
    copy = pickle.loads(pickle.dumps(cache))
    assert torch.equal(copy.load(2)["v_id"], before["v_id"])


def test_shards_are_plain_tar_files_for_webdataset(folder):
    with tarfile.open(folder / "shard-000000.tar") as archive:
        names = archive.getnames()
        assert names[:2] == ["00000000.safetensors", "00000000.json"] and len(names) == 8
        assert json.load(archive.extractfile("00000003.json")) == {"name": "faces/3.jpg"}
    webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")
    samples = list(
        webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False)
    )
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(6)]
    assert torch.equal(load(samples[4]["safetensors"])["v_id"][0], LatentCache(folder).load(4)["v_id"])


def test_without_expressions_there_is_no_v_exp(tmp_path):
    cache = LatentCache(write_cache(tmp_path, exp_dim=0))
    assert cache.exp_dim == 0
    assert "v_exp" not in cache.load(0)


def test_the_same_photos_give_the_same_bytes(folder, tmp_path):
    again = write_cache(tmp_path / "again", count=6, skipped=2)
    for path in folder.glob("*.*"):
        if path.suffix != ".pt":
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_report_counts_and_lists(folder):
    report = json.loads((folder / "report.json").read_text())
    assert (report["photos"], report["cached"], report["skipped"]) == (8, 6, {"no face": 2})
    assert [photo["photo"] for photo in report["list"]] == ["bad/0.jpg", "bad/1.jpg"]
    (folder / "shard-000001.json").unlink()
    assert write_report(folder) is None, "shards are missing"


def test_missing_shards_are_named(folder):
    (folder / "shard-000001.json").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"the shard 'shard-000001.json' is missing. .*`f2d-train prepare`",
    ):
        LatentCache(folder)
    (folder / "shard-000000.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-000000.tar"):
        LatentCache(folder)


def test_truncated_shards_are_named(folder):
    shard = folder / "shard-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1000])
    with pytest.raises(
        ValueError,
        match=rf"shard-000000.tar' .*{len(content) - 1000:,} bytes instead of {len(content):,}",
    ):
        LatentCache(folder)


def test_changed_shards_are_named(folder):
    shard = folder / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 0xFF
    shard.write_bytes(content)
    LatentCache(folder)
    with pytest.raises(
        ValueError,
        match=r"shard-000000.tar' was changed: .* \w{8} instead of \w{8}.* Delete shard-000000.tar",
    ):
        LatentCache(folder, verify=True)
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(
        ValueError, match=r"Photo 1 in '.*shard-000000.tar' is damaged .* Delete shard-000000.tar"
    ):
        LatentCache(folder).load(1)


def test_newer_and_damaged_caches_are_refused(folder):
    manifest = folder / "cache.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "format": 2, "new": 1}))
    with pytest.raises(ValueError, match="has format 2; this version reads up to 1. Update"):
        LatentCache(folder)
    manifest.write_text(json.dumps({**values, "new": 1}))
    with pytest.raises(ValueError, match="does not describe a cache"):
        LatentCache(folder)
    manifest.write_text("{")
    with pytest.raises(ValueError, match="cache.json' is damaged"):
        LatentCache(folder)
    manifest.write_text(json.dumps(values))
    (folder / "shard-000000.json").write_text("[]")
    with pytest.raises(ValueError, match="is not the index of a shard"):
        LatentCache(folder)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_other_folders_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=f"'{name}' is not a cache of `f2d-train prepare`: it has no cache.json"
    ):
        LatentCache(name)


def test_a_cache_without_photos_is_refused(tmp_path):
    begin_cache(tmp_path, CacheInfo())
    write_shard(tmp_path, 0, [])
    with pytest.raises(ValueError, match="no photos in the cache .* all were skipped"):
        LatentCache(tmp_path)


def test_a_cache_is_not_gone_on_with_by_other_settings(folder):
    info = read_info(folder)
    begin_cache(folder, info)
    other = CacheInfo(**{**info.__dict__, "vae": "7" * 64, "image_size": 512})
    with pytest.raises(
        ValueError,
        match=r"\(image_size 64, not 512; vae 55555555, not 77777777\)\. Use another --out",
    ):
        begin_cache(folder, other)


def test_a_full_disk_leaves_no_half_shard(folder, tmp_path, monkeypatch):
    photos = [module.CachedPhoto(0, "a.jpg", {"v_id": torch.zeros(2, 1000)})]
    real_open = open

    class Full(io.FileIO):
        def write(self, content):
            super().write(bytes(content[:100]))
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        files,
        "open",
        lambda path, mode: Full(path, mode) if mode == "wb" else real_open(path, mode),
        raising=False,
    )
    with pytest.raises(OSError, match=r"'.*shard-000007.tar' cannot be written \(.*No space left"):
        write_shard(tmp_path / "full", 7, photos)
    assert list((tmp_path / "full").iterdir()) == []
