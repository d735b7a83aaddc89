"""The identity encoder: depths, variants, sizes read from files, and the official parameter count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.networks.msid import MSIDConfig, MSIDEncoder, infer_config, load_msid
from support.official import write_msid

SMALL = MSIDConfig(
    image_size=32, patch_size=8, embed_dim=64, depth=4, heads=2, depths=(1, 2, 4), normed=(1, 2, 4)
)


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def network() -> MSIDEncoder:
    torch.manual_seed(0)
    network = MSIDEncoder(SMALL).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return network


def variant(network: MSIDEncoder, **changes: tuple[int, ...]) -> MSIDEncoder:
    """The same weights, with other features taken from them."""
    other = MSIDEncoder(replace(network.config, **changes)).eval().requires_grad_(False)
    other.load_state_dict(network.state_dict(), strict=False)
    return other


def token_after(network: MSIDEncoder, faces: torch.Tensor, depth: int) -> torch.Tensor:
    """The class token after so many blocks."""
    x = network.patch_embed(faces)
    x = torch.cat([network.cls_token.expand(len(x), -1, -1), x], dim=1) + network.pos_embed
    return network.blocks[:depth](x)[:, 0]


def test_official_sizes_have_the_official_parameters(encoder: FaceEncoder, official: Path) -> None:
    tensors = read(official / "msid.pt").tensors
    assert len(tensors) == 178
    assert sum(parameter.numel() for parameter in encoder.msid.parameters()) == 21_450_624
    assert {name: tensor.shape for name, tensor in encoder.msid.state_dict().items()} == {
        name: t.shape for name, t in tensors.items()
    }


def test_official_file_has_the_papers_sizes(encoder: FaceEncoder) -> None:
    assert encoder.msid.config == MSIDConfig()
    assert MSIDConfig().feature_dim == 1536


def test_loaded_encoder_is_frozen_and_in_evaluation_mode(encoder: FaceEncoder) -> None:
    assert not encoder.msid.training
    assert not any(parameter.requires_grad for parameter in encoder.msid.parameters())


def test_each_feature_equals_running_only_so_many_blocks(network: MSIDEncoder, faces: torch.Tensor) -> None:
    levels = network.forward_levels(faces)
    for depth, level in zip(SMALL.depths, levels, strict=True):
        expected = network.norms[f"layer_{depth - 1}"](token_after(network, faces, depth))
        torch.testing.assert_close(level, expected)


def test_features_stand_from_shallow_to_deep(network: MSIDEncoder, faces: torch.Tensor) -> None:
    v_id = network(faces)
    assert v_id.shape == (2, 192)
    torch.testing.assert_close(v_id, torch.cat(network.forward_levels(faces), dim=1), rtol=0, atol=0)


def test_deeper_blocks_do_not_touch_a_shallow_feature(network: MSIDEncoder, faces: torch.Tensor) -> None:
    before = network.forward_levels(faces)
    network.blocks[2].mlp.fc1.bias += 1
    after = network.forward_levels(faces)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.allclose(before[2], after[2])


def test_blocks_below_the_deepest_feature_are_not_run(network: MSIDEncoder, faces: torch.Tensor) -> None:
    shallow = variant(network, depths=(1, 2))
    shallow.blocks[2] = torch.nn.LazyLinear(1)  # would change, and break, what comes after
    assert torch.equal(shallow(faces), network(faces)[:, :128])
    assert shallow.blocks[2].has_uninitialized_params()


def test_batch_of_two_equals_two_batches_of_one(network: MSIDEncoder, faces: torch.Tensor) -> None:
    torch.testing.assert_close(
        network(faces), torch.cat([network(faces[:1]), network(faces[1:])]), rtol=1e-5, atol=1e-6
    )
    assert not torch.allclose(network(faces[:1]), network(faces[1:]), rtol=1e-2)


def test_arcface_variant_is_the_deepest_feature_alone(network: MSIDEncoder, faces: torch.Tensor) -> None:
    arcface = variant(network, depths=(4,), normed=(4,))
    assert arcface.config.feature_dim == 64
    torch.testing.assert_close(arcface(faces), network(faces)[:, -64:])


def test_arcface_with_multi_scale_features_takes_shallow_tokens_as_they_are(
    network: MSIDEncoder, faces: torch.Tensor
) -> None:
    levels = variant(network, normed=(4,)).forward_levels(faces)
    for depth, level in zip((1, 2), levels, strict=False):
        torch.testing.assert_close(level, token_after(network, faces, depth))
    torch.testing.assert_close(levels[2], network.forward_levels(faces)[2])


def test_features_are_not_normalized_to_unit_length(network: MSIDEncoder, faces: torch.Tensor) -> None:
    assert (network(faces).norm(dim=1) > 2).all()


@pytest.mark.parametrize("sizes", [
    {"image_size": 64, "patch_size": 16, "width": 96, "depth": 3, "layers": (0, 2)},
    {"image_size": 112, "patch_size": 16, "width": 64, "depth": 5, "layers": (4,)},
])  # fmt: skip
def test_sizes_are_read_from_a_plain_file(tmp_path: Path, sizes: dict) -> None:
    config = load_msid(read(write_msid(tmp_path / "msid.pt", **sizes))).config
    depths = tuple(layer + 1 for layer in sizes["layers"])
    assert config == MSIDConfig(
        sizes["image_size"],
        sizes["patch_size"],
        sizes["width"],
        sizes["depth"],
        sizes["width"] // 32,
        4.0,
        depths,
        depths,
    )


def test_other_depths_can_be_taken_from_a_file(small_files: Path) -> None:
    network = load_msid(read(small_files / "msid.pt"), depths=(2, 4))
    assert network.config.feature_dim == 128
    torch.testing.assert_close(
        network(torch.ones(1, 3, 112, 112)),
        load_msid(read(small_files / "msid.pt"))(torch.ones(1, 3, 112, 112))[
            :, [*range(64, 128), *range(192, 256)]
        ],
    )


def test_metadata_carries_what_shapes_cannot_tell(
    network: MSIDEncoder, faces: torch.Tensor, tmp_path: Path
) -> None:
    unusual = MSIDEncoder(replace(SMALL, heads=4, depths=(1, 2, 4), normed=(4,))).eval()
    save(tmp_path / "msid.safetensors", unusual.state_dict(), "msid", unusual.config)
    loaded = load_msid(read(tmp_path / "msid.safetensors"))
    assert loaded.config == unusual.config != infer_config(unusual.state_dict())
    torch.testing.assert_close(loaded(faces), unusual(faces), rtol=0, atol=0)


def test_unused_final_norm_may_be_missing(small_files: Path, tmp_path: Path) -> None:
    tensors = torch.load(small_files / "msid.pt", weights_only=True)
    torch.save(
        {name: tensor for name, tensor in tensors.items() if not name.startswith("norm.")},
        tmp_path / "msid.pt",
    )
    face = torch.zeros(1, 3, 112, 112)
    assert torch.equal(
        load_msid(read(tmp_path / "msid.pt"))(face), load_msid(read(small_files / "msid.pt"))(face)
    )


@pytest.mark.parametrize("wrap", [
    lambda tensors: {"state_dict": tensors, "epoch": 3},
    lambda tensors: {"model": tensors},
    lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    lambda tensors: {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()},
], ids=["state_dict", "model", "module.", "module._orig_mod."])  # fmt: skip
def test_wrapped_files_of_training_scripts_load(small_files: Path, tmp_path: Path, wrap) -> None:
    tensors = torch.load(small_files / "msid.pt", weights_only=True)
    torch.save(wrap(tensors), tmp_path / "msid.pt")
    face = torch.zeros(1, 3, 112, 112)
    assert torch.equal(
        load_msid(read(tmp_path / "msid.pt"))(face), load_msid(read(small_files / "msid.pt"))(face)
    )


def test_half_precision_file_runs_in_single_precision(small_files: Path, tmp_path: Path) -> None:
    tensors = torch.load(small_files / "msid.pt", weights_only=True)
    torch.save(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()},
        tmp_path / "msid.pt",
    )
    network = load_msid(read(tmp_path / "msid.pt"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert network(torch.zeros(1, 3, 112, 112)).isfinite().all()
