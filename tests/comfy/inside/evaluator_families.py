"""Gives CLIPs of other families to Pick Best Images, and prints the error of each."""

import json
import types

import boot
import comfy.sdxl_clip
import comfy.text_encoders.flux
import comfy.text_encoders.sd3_clip
import torch

FAMILIES = {
    "SDXL": comfy.sdxl_clip.SDXLTokenizer,
    "SD3": comfy.text_encoders.sd3_clip.SD3Tokenizer,
    "Flux": comfy.text_encoders.flux.FluxTokenizer,
}

boot.load_pack()
messages = {}
for name, tokenizer in FAMILIES.items():
    clip = types.SimpleNamespace(tokenizer=tokenizer())
    try:
        boot.node("F2DPickBest").execute(
            torch.zeros(1, 64, 64, 3),
            None,
            "A photo of S*",
            1,
            0.6,
            "none",
            "clip_l.safetensors",
            object(),
            clip,
        )
        messages[name] = "no error"
    except Exception as error:
        messages[name] = f"{type(error).__name__}: {error}"
print(json.dumps(messages))
