"""Face parsing: both networks against independent computations, class names, and files that are something
else.
"""

from __future__ import annotations

import json

import pytest
import torch
from face2diffusion.training.config import IDENTITY_CLASSES
from face2diffusion.training.data.parsing import BISENET_LABELS, CELEBAMASK_LABELS, load_parser
from support.parsers import bisenet_state, write_bisenet, write_segformer
from torch import Tensor
from torch.nn import functional as F

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parsers")
    write_bisenet(folder / "79999_iter.pth", seed=1)
    write_segformer(folder / "segformer", seed=2)
    return folder


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """(2, 3, 96, 96) in [0, 1]: smooth colors."""
    return F.interpolate(
        torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), (96, 96), mode="bilinear"
    )


def bisenet_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """BiSeNet's first output, from its tensors alone."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        values = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values)

    def block(x: Tensor, name: str) -> Tensor:
        return norm(conv(x, f"{name}.conv"), f"{name}.bn").relu()

    def basic(x: Tensor, name: str, stride: int) -> Tensor:
        out = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
        out = norm(conv(out, f"{name}.conv2"), f"{name}.bn2")
        short = (
            norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            if f"{name}.downsample.0.weight" in state
            else x
        )
        return (out + short).relu()

    def refine(x: Tensor, name: str) -> Tensor:
        x = block(x, f"{name}.conv")
        return x * norm(conv(F.adaptive_avg_pool2d(x, 1), f"{name}.conv_atten"), f"{name}.bn_atten").sigmoid()

    size = x.shape[2:]
    x = F.max_pool2d(norm(conv(x, "cp.resnet.conv1", 2), "cp.resnet.bn1").relu(), 3, 2, 1)
    levels = []
    for stage in range(1, 5):
        x = basic(x, f"cp.resnet.layer{stage}.0", 1 if stage == 1 else 2)
        x = basic(x, f"cp.resnet.layer{stage}.1", 1)
        levels.append(x)
    _, x8, x16, x32 = levels
    average = block(F.adaptive_avg_pool2d(x32, 1), "cp.conv_avg").expand(-1, -1, *x32.shape[2:])
    up = F.interpolate(refine(x32, "cp.arm32") + average, x16.shape[2:], mode="nearest")
    up = F.interpolate(refine(x16, "cp.arm16") + block(up, "cp.conv_head32"), x8.shape[2:], mode="nearest")
    fused = block(torch.cat([x8, block(up, "cp.conv_head16")], 1), "ffm.convblk")
    attention = conv(conv(F.adaptive_avg_pool2d(fused, 1), "ffm.conv1").relu(), "ffm.conv2").sigmoid()
    fused = fused * attention + fused
    return F.interpolate(
        conv(block(fused, "conv_out.conv"), "conv_out.conv_out"), size, mode="bilinear", align_corners=True
    )


def test_the_official_bisenet_has_191_tensors_and_13_million_weights():
    state = bisenet_state()
    assert len(state) == 191
    weights = sum(
        tensor.numel() for name, tensor in state.items() if not name.endswith(("mean", "var", "tracked"))
    )
    assert weights == 13_300_416


def test_bisenet_equals_an_independent_computation(files, photos):
    parser = load_parser(files / "79999_iter.pth", size=96)
    state = torch.load(files / "79999_iter.pth", weights_only=True)
    expected = bisenet_logits(state, (photos - MEAN) / STD)
    got = parser.network((photos - MEAN) / STD)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    labels = expected.argmax(1)
    assert labels.unique().numel() > 3, "a picture with one label shows nothing"
    wanted = [BISENET_LABELS.index(name) for name in IDENTITY_CLASSES]
    agree = parser.identity_mask(photos, IDENTITY_CLASSES) == torch.isin(labels, torch.tensor(wanted))
    assert agree.float().mean() > 0.999


def test_segformer_equals_transformers_own_postprocessing(files, photos):
    from transformers import SegformerForSemanticSegmentation

    parser = load_parser(files / "segformer", size=96)
    network = SegformerForSemanticSegmentation.from_pretrained(files / "segformer").eval()
    with torch.no_grad():
        logits = network(pixel_values=(photos - MEAN) / STD).logits
    labels = F.interpolate(logits, (96, 96), mode="bilinear", align_corners=False).argmax(1)
    assert labels.unique().numel() > 3
    assert torch.equal(parser(photos), labels)
    for name in ("skin", "hair"):
        assert torch.equal(parser.identity_mask(photos, [name]), labels == CELEBAMASK_LABELS.index(name))


def test_photos_of_other_sizes_are_scaled_to_the_networks_size(files, photos):
    parser = load_parser(files / "segformer", size=64)
    assert parser.identity_mask(photos, CELEBAMASK_LABELS).shape == (2, 96, 96)
    assert parser.identity_mask(photos, CELEBAMASK_LABELS).all(), "all classes are the whole picture"


def test_both_label_orders_have_the_same_names():
    assert sorted(BISENET_LABELS) == sorted(CELEBAMASK_LABELS)
    assert set(IDENTITY_CLASSES) <= set(CELEBAMASK_LABELS)
    assert (BISENET_LABELS.index("hair"), CELEBAMASK_LABELS.index("hair")) == (17, 13)


@pytest.mark.parametrize("classes", [("skin", "beard"), ()])
def test_unknown_classes_are_an_error_that_lists_the_valid_ones(files, photos, classes):
    with pytest.raises(
        ValueError,
        match=f"{'beard' if classes else 'empty'}.* Choose from background, skin",
    ):
        load_parser(files / "segformer").identity_mask(photos, classes)


def test_labels_in_another_order_are_refused(files, tmp_path):
    early = tuple(f"{name}.png" for name in ("background", "skin", "nose", "r_eye", "l_eye"))
    write_segformer(tmp_path / "early", labels=early)
    with pytest.raises(
        ValueError, match=r"are background.png, skin.png, .*must be background, skin, .*present one"
    ):
        load_parser(tmp_path / "early")
    write_segformer(tmp_path / "other", labels=BISENET_LABELS)
    with pytest.raises(ValueError, match="in this order"):
        load_parser(tmp_path / "other")


def test_other_files_say_what_is_wrong(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_parser(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_parser(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "id2label": {"0": "x"}}))
    with pytest.raises(ValueError, match="is 'bert', not SegFormer"):
        load_parser(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not a model's config"):
        load_parser(tmp_path)
    (tmp_path / "config.json").write_bytes((files / "segformer" / "config.json").read_bytes())
    with pytest.raises(ValueError, match="SegFormer weights .* cannot be read"):
        load_parser(tmp_path)
    state = bisenet_state()
    del state["ffm.conv1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(
        ValueError, match=r"does not fit BiSeNet, which has 191 tensors: 1 missing \(ffm.conv1.weight\)"
    ):
        load_parser(tmp_path / "part.pth")
