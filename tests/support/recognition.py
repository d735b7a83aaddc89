"""Random weights of the evaluators in their published layouts, and their computations written out.

Names, shapes and order of layers are stated here a second time, with torch.nn.functional and without the
package's own classes. The same seed gives the same file.
"""

from __future__ import annotations

import io
import json
import string
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

ADAFACE_UNITS = {"IR-50": (3, 4, 14, 3), "IR-101": (3, 13, 30, 3)}
SPHEREFACE_STAGES = ((64, 1), (128, 2), (256, 4), (512, 1))  # width, residual pairs
WIDTHS = (64, 128, 256, 512)


def units(variant: str) -> Iterator[tuple[str, int, int, int]]:
    """Each unit of AdaFace's body: name, input width, width, stride."""
    inputs, number = 64, 0
    for width, count in zip(WIDTHS, ADAFACE_UNITS[variant], strict=True):
        for index in range(count):
            yield f"body.{number}.", inputs, width, 1 if index else 2
            inputs, number = width, number + 1


def draw(shapes: Shapes, seed: int, gain: float = 0.6) -> State:
    """Sample each tensor by name and rank: activations keep their size, normalizations differ."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000)
        elif key.endswith("running_var"):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) > 1:
            state[key] = torch.randn(shape, generator=generator) * (2 / torch.Size(shape[1:]).numel()) ** 0.5
        elif "bias" in key or "running_mean" in key:
            state[key] = 0.1 * torch.randn(shape, generator=generator)
        else:
            state[key] = gain + 0.2 * (torch.rand(shape, generator=generator) - 0.5)
    return state


def norm_shapes(name: str, width: int, affine: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (width,), f"{name}.bias": (width,)} if affine else {}
    return shapes | {
        f"{name}.running_mean": (width,),
        f"{name}.running_var": (width,),
        f"{name}.num_batches_tracked": (),
    }


def batch_norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], weight, bias, eps=eps)


# --- AdaFace ---


def cp2tform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """MATLAB's cp2tform(source, target, 'nonreflective similarity'): shape (2, 3), from source to target."""
    x, y = np.asarray(target, np.float64).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    system = np.vstack([np.column_stack([x, y, one, zero]), np.column_stack([y, -x, zero, one])])
    scaled_cos, scaled_sin, shift_x, shift_y = np.linalg.lstsq(
        system, np.concatenate(np.asarray(source, np.float64).T), rcond=None
    )[0]
    to_source = np.array([[scaled_cos, -scaled_sin, 0], [scaled_sin, scaled_cos, 0], [shift_x, shift_y, 1]])
    return np.linalg.inv(to_source).T[:2]


def adaface_shapes(variant: str) -> Shapes:
    shapes: Shapes = {
        "input_layer.0.weight": (64, 3, 3, 3),
        **norm_shapes("input_layer.1", 64),
        "input_layer.2.weight": (64,),
    }
    for name, inputs, width, _ in units(variant):
        if inputs != width:
            shapes |= {
                f"{name}shortcut_layer.0.weight": (width, inputs, 1, 1),
                **norm_shapes(f"{name}shortcut_layer.1", width),
            }
        shapes |= norm_shapes(f"{name}res_layer.0", inputs) | {
            f"{name}res_layer.1.weight": (width, inputs, 3, 3)
        }
        shapes |= norm_shapes(f"{name}res_layer.2", width) | {f"{name}res_layer.3.weight": (width,)}
        shapes |= {
            f"{name}res_layer.4.weight": (width, width, 3, 3),
            **norm_shapes(f"{name}res_layer.5", width),
        }
    shapes |= norm_shapes("output_layer.0", 512)
    shapes |= {"output_layer.3.weight": (512, 25088), "output_layer.3.bias": (512,)}
    return shapes | norm_shapes("output_layer.4", 512, affine=False)


def write_adaface(path: Path, variant: str = "IR-50", seed: int = 0) -> Path:
    """Write a Lightning checkpoint.

    The network under `model.`, the training head, and plain data beside them.
    """
    state = {f"model.{key}": value for key, value in draw(adaface_shapes(variant), seed).items()}
    state |= {
        "head.kernel": torch.zeros(512, 10),
        "head.t": torch.zeros(1),
        "head.batch_mean": torch.ones(1),
        "head.batch_std": torch.ones(1),
    }
    torch.save(
        {"epoch": 25, "global_step": 142_000, "pytorch-lightning_version": "1.8.6", "state_dict": state}, path
    )
    return path


def adaface(state: State, x: Tensor, variant: str) -> Tensor:
    """x: (B, 3, 112, 112) BGR in [-1, 1]."""
    x = F.prelu(
        batch_norm(state, "input_layer.1", F.conv2d(x, state["input_layer.0.weight"], padding=1)),
        state["input_layer.2.weight"],
    )
    for name, inputs, width, stride in units(variant):
        short = x[:, :, ::stride, ::stride]
        if inputs != width:
            short = batch_norm(
                state, f"{name}shortcut_layer.1", F.conv2d(short, state[f"{name}shortcut_layer.0.weight"])
            )
        x = F.conv2d(
            batch_norm(state, f"{name}res_layer.0", x), state[f"{name}res_layer.1.weight"], padding=1
        )
        x = F.prelu(batch_norm(state, f"{name}res_layer.2", x), state[f"{name}res_layer.3.weight"])
        x = F.conv2d(x, state[f"{name}res_layer.4.weight"], stride=stride, padding=1)
        x = batch_norm(state, f"{name}res_layer.5", x) + short
    x = batch_norm(state, "output_layer.0", x).flatten(1)
    x = batch_norm(
        state, "output_layer.4", F.linear(x, state["output_layer.3.weight"], state["output_layer.3.bias"])
    )
    return x / x.norm(dim=1, keepdim=True)


# --- SphereFace ---


def sphereface_shapes() -> Shapes:
    shapes: Shapes = {}
    inputs = 3
    for stage, (width, pairs) in enumerate(SPHEREFACE_STAGES, start=1):
        for number in range(1, 2 * pairs + 2):
            shapes[f"conv{stage}_{number}.weight"] = (width, inputs, 3, 3)
            shapes[f"conv{stage}_{number}.bias"] = (width,)
            shapes[f"relu{stage}_{number}.weight"] = (width,)
            inputs = width
    return shapes | {"fc5.weight": (512, 21504), "fc5.bias": (512,), "fc6.weight": (512, 10574)}


def write_sphereface(path: Path, seed: int = 0) -> Path:
    torch.save(draw(sphereface_shapes(), seed), path)
    return path


def sphereface(state: State, x: Tensor) -> Tensor:
    """x: (B, 3, 112, 96) BGR, (value - 127.5) / 128."""

    def layer(x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"conv{name}.weight"], state[f"conv{name}.bias"], stride, 1)
        return F.prelu(x, state[f"relu{name}.weight"])

    x = layer(x, "1_1", 2)
    x = x + layer(layer(x, "1_2"), "1_3")
    x = layer(x, "2_1", 2)
    x = x + layer(layer(x, "2_2"), "2_3")
    x = x + layer(layer(x, "2_4"), "2_5")
    x = layer(x, "3_1", 2)
    x = x + layer(layer(x, "3_2"), "3_3")
    x = x + layer(layer(x, "3_4"), "3_5")
    x = x + layer(layer(x, "3_6"), "3_7")
    x = x + layer(layer(x, "3_8"), "3_9")
    x = layer(x, "4_1", 2)
    x = x + layer(layer(x, "4_2"), "4_3")
    return x.flatten(1) @ state["fc5.weight"].T + state["fc5.bias"]


# --- FaceNet ---

Conv = Callable[..., Tensor]  # name, x, width, kernel, stride, padding


def facenet_graph(conv: Conv, x: Tensor) -> Tensor:
    """InceptionResnetV1 up to its last 1792 feature maps, with `conv(name, x, width, kernel, stride,
    padding)` for each layer.
    """

    def residual(name: str, x: Tensor, joined: Tensor, scale: float, relu: bool = True) -> Tensor:
        x = x + scale * conv(f"{name}.conv2d", joined, x.shape[1], 1, 1, 0)
        return F.relu(x) if relu else x

    def block8(name: str, x: Tensor, scale: float, relu: bool = True) -> Tensor:
        y = conv(f"{name}.branch1.0", x, 192, 1, 1, 0)
        y = conv(
            f"{name}.branch1.2", conv(f"{name}.branch1.1", y, 192, (1, 3), 1, (0, 1)), 192, (3, 1), 1, (1, 0)
        )
        return residual(name, x, torch.cat([conv(f"{name}.branch0", x, 192, 1, 1, 0), y], 1), scale, relu)

    x = conv("conv2d_1a", x, 32, 3, 2, 0)
    x = conv("conv2d_2b", conv("conv2d_2a", x, 32, 3, 1, 0), 64, 3, 1, 1)
    x = conv("conv2d_3b", F.max_pool2d(x, 3, 2), 80, 1, 1, 0)
    x = conv("conv2d_4b", conv("conv2d_4a", x, 192, 3, 1, 0), 256, 3, 2, 0)
    for name in (f"repeat_1.{index}" for index in range(5)):
        a = conv(f"{name}.branch0", x, 32, 1, 1, 0)
        b = conv(f"{name}.branch1.1", conv(f"{name}.branch1.0", x, 32, 1, 1, 0), 32, 3, 1, 1)
        c = conv(f"{name}.branch2.1", conv(f"{name}.branch2.0", x, 32, 1, 1, 0), 32, 3, 1, 1)
        x = residual(name, x, torch.cat([a, b, conv(f"{name}.branch2.2", c, 32, 3, 1, 1)], 1), 0.17)
    a = conv("mixed_6a.branch0", x, 384, 3, 2, 0)
    b = conv("mixed_6a.branch1.1", conv("mixed_6a.branch1.0", x, 192, 1, 1, 0), 192, 3, 1, 1)
    x = torch.cat([a, conv("mixed_6a.branch1.2", b, 256, 3, 2, 0), F.max_pool2d(x, 3, 2)], 1)
    for name in (f"repeat_2.{index}" for index in range(10)):
        y = conv(f"{name}.branch1.0", x, 128, 1, 1, 0)
        y = conv(
            f"{name}.branch1.2", conv(f"{name}.branch1.1", y, 128, (1, 7), 1, (0, 3)), 128, (7, 1), 1, (3, 0)
        )
        x = residual(name, x, torch.cat([conv(f"{name}.branch0", x, 128, 1, 1, 0), y], 1), 0.10)
    a = conv("mixed_7a.branch0.1", conv("mixed_7a.branch0.0", x, 256, 1, 1, 0), 384, 3, 2, 0)
    b = conv("mixed_7a.branch1.1", conv("mixed_7a.branch1.0", x, 256, 1, 1, 0), 256, 3, 2, 0)
    c = conv("mixed_7a.branch2.1", conv("mixed_7a.branch2.0", x, 256, 1, 1, 0), 256, 3, 1, 1)
    x = torch.cat([a, b, conv("mixed_7a.branch2.2", c, 256, 3, 2, 0), F.max_pool2d(x, 3, 2)], 1)
    for index in range(5):
        x = block8(f"repeat_3.{index}", x, 0.20)
    return block8("block8", x, 1.0, relu=False)


def facenet_shapes() -> Shapes:
    shapes: Shapes = {}

    def conv(name: str, x: Tensor, width: int, kernel: Any, stride: int, padding: Any) -> Tensor:
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        if name.endswith(".conv2d"):
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width, x.shape[1], *size), (width,)
        else:
            shapes[f"{name}.conv.weight"] = (width, x.shape[1], *size)
            shapes.update(norm_shapes(f"{name}.bn", width))
        return F.conv2d(x, x.new_empty(width, x.shape[1], *size), None, stride, padding)

    facenet_graph(conv, torch.empty(1, 3, 160, 160, device="meta"))
    shapes |= {"last_linear.weight": (512, 1792), **norm_shapes("last_bn", 512)}
    return shapes | {"logits.weight": (8631, 512), "logits.bias": (8631,)}


def write_facenet(path: Path, seed: int = 0) -> Path:
    torch.save(draw(facenet_shapes(), seed, gain=1.1), path)
    return path


def facenet(state: State, x: Tensor) -> Tensor:
    """x: (B, 3, 160, 160) RGB, (value - 127.5) / 128."""

    def conv(name: str, x: Tensor, width: int, kernel: Any, stride: int, padding: Any) -> Tensor:
        if name.endswith(".conv2d"):
            return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])
        x = F.conv2d(x, state[f"{name}.conv.weight"], None, stride, padding)
        return F.relu(batch_norm(state, f"{name}.bn", x, 1e-3))

    x = F.adaptive_avg_pool2d(facenet_graph(conv, x), 1).flatten(1)
    return F.normalize(batch_norm(state, "last_bn", x @ state["last_linear.weight"].T, 1e-3))


# --- Text evaluators ---

_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {**_TOWER, "image_size": 48, "patch_size": 16}


def write_clip(
    folder: Path, seed: int = 0, vision: Mapping[str, int] = _VISION, text: Mapping[str, int] = _TOWER
) -> Path:
    """Write a random CLIPModel, small unless told otherwise, with a tokenizer of single letters, as
    transformers lays it out.
    """
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    tokenizer_files = folder / "letters"
    tokenizer_files.mkdir(parents=True)
    letters = [*string.printable[:95].replace(" ", "")]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tokenizer_files / "vocab.json").write_text(
        json.dumps({name: number for number, name in enumerate(names)})
    )
    (tokenizer_files / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_files, model_max_length=77)
    end = len(names) - 1
    words = {"vocab_size": len(names), "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**text, **words, "hidden_act": "gelu"},
        vision_config={**vision, "hidden_act": "gelu"},
        projection_dim=24,
    )
    side = config.vision_config.image_size
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return _save_folder(folder, CLIPModel, config, seed, tokenizer, processor)


def write_siglip(
    folder: Path, seed: int = 0, vision: Mapping[str, int] = _VISION, text: Mapping[str, int] = _TOWER
) -> Path:
    """Write a random SiglipModel, small unless told otherwise, with a SentencePiece vocabulary of letters."""
    import sentencepiece
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipTokenizer

    folder.mkdir(parents=True)
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(string.ascii_lowercase), "a photo of a person as a chef"]),
        model_writer=pieces,
        vocab_size=40,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        pad_id=0,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=64)
    config = SiglipConfig(
        text_config={**text, "vocab_size": 64, "max_position_embeddings": 64}, vision_config=dict(vision)
    )
    side = config.vision_config.image_size
    return _save_folder(
        folder,
        SiglipModel,
        config,
        seed,
        tokenizer,
        SiglipImageProcessor(size={"height": side, "width": side}),
    )


def _save_folder(
    folder: Path, model_class: Any, config: Any, seed: int, tokenizer: Any, processor: Any
) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(
                    parameter, std=(parameter.shape[0] / parameter.numel()) ** 0.5
                )  # else all pictures look alike
        if hasattr(model, "logit_bias"):
            model.logit_scale.data.fill_(2.3)
            model.logit_bias.data.fill_(-4.0)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder
