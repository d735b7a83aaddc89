"""Times loading the pack, and S* in a prompt against the same prompt without it."""

import json
import sys
import types
from pathlib import Path

import boot
import comfy.sd
import comfy.sd1_clip
import torch

sys.path.append(str(Path(__file__).parents[2] / "support"))
from timing import time_in_turn  # noqa: E402


def random_clip() -> comfy.sd.CLIP:
    """Build a CLIP-L of full size with random weights."""
    target = types.SimpleNamespace(
        params={}, clip=comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer
    )
    clip = comfy.sd.CLIP(target)
    torch.manual_seed(0)
    for name, parameter in clip.cond_stage_model.named_parameters():
        torch.nn.init.ones_(parameter) if "norm" in name else torch.nn.init.normal_(parameter, std=0.02)
    return clip


load_seconds, imported = boot.load_pack()
inject, encode = boot.node("InjectSStar"), boot.node("CLIPTextEncode")()
words = torch.randn(2, 768) * 0.02
encoder = types.SimpleNamespace(words=lambda identity, expression: words)
encoder.mapper = types.SimpleNamespace(config=types.SimpleNamespace(positional="replace"))
identity = types.SimpleNamespace(encoder=encoder)  # the mapper's own time belongs to encoding the face
prompt = "A photo of S* as a chef, in a restaurant kitchen"

with torch.inference_mode():
    clip = random_clip()

    def with_subject() -> None:
        """Inject S* and encode."""
        encode.encode(inject.execute(clip, identity, 1.0, "S*").args[0], prompt)

    pair = time_in_turn(with_subject, lambda: encode.encode(clip, prompt), rounds=25)

print(
    json.dumps(
        {
            "load_seconds": load_seconds,
            "imported": imported,
            "with": pair.first,
            "without": pair.second,
            "ratio": pair.ratio,
        }
    )
)
