"""Gives CLIPs of other families to Inject S*, and prints the error of each."""

import json
import types

import boot
import comfy.sd
import comfy.sdxl_clip
import comfy.text_encoders.flux
import comfy.text_encoders.sd2_clip
import comfy.text_encoders.sd3_clip
import torch

FAMILIES = {
    "SDXL": (comfy.sdxl_clip.SDXLTokenizer, None),
    "SD2": (comfy.text_encoders.sd2_clip.SD2Tokenizer, comfy.text_encoders.sd2_clip.SD2ClipModel),
    "SD3": (comfy.text_encoders.sd3_clip.SD3Tokenizer, None),
    "Flux": (comfy.text_encoders.flux.FluxTokenizer, None),
}


def clip_of(tokenizer: type, model: type | None) -> types.SimpleNamespace:
    """Build what Inject S* looks at: a tokenizer, and a text encoder without memory."""
    return types.SimpleNamespace(
        tokenizer=tokenizer(), cond_stage_model=model(device="meta", dtype=torch.float32) if model else None
    )


boot.load_pack()
mapper = types.SimpleNamespace(config=types.SimpleNamespace(positional="replace"))
encoder = types.SimpleNamespace(mapper=mapper)
identity = types.SimpleNamespace(encoder=encoder, words=lambda expression: torch.zeros(2, 768))
messages = {}
for name, parts in FAMILIES.items():
    try:
        boot.node("InjectSStar").execute(clip_of(*parts), identity, 1.0, "S*")
        messages[name] = "no error"
    except Exception as error:
        messages[name] = f"{type(error).__name__}: {error}"
print(json.dumps(messages))
