"""Loads the miniature's checkpoint as CheckpointLoaderSimple does, and compares it with what the narrow
networks computed.
"""

import json

import boot
import comfy.sd
import torch

checkpoint, expected = boot.ARGUMENT
narrow = torch.load(expected)
model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(checkpoint)


def difference(got, wanted):
    """Give the greatest difference in relation to the greatest value."""
    return float((got - wanted).abs().max() / wanted.abs().max())


with torch.no_grad():
    unet = model.model.diffusion_model.float()
    noise = unet(narrow["noisy"], narrow["time"], context=narrow["states"])
    pictures = vae.first_stage_model.float()
    scale = 0.18215  # of SD 1.x's latents
    found = {
        "family": type(model.model.model_config).__name__,
        "unet": difference(noise, narrow["noise"]),
        "encoder": difference(pictures.encode(narrow["image"]) * scale, narrow["latent"]),
        "decoder": difference(pictures.decode(narrow["latent"] / scale), narrow["decoded"]),
        "ids": [[token[0] for token in clip.tokenize(prompt)["l"][0]] for prompt in narrow["prompts"]],
        "text": difference(
            clip.encode_from_tokens(clip.tokenize(narrow["prompts"][0])), narrow["states"][:1]
        ),
    }
print(json.dumps(found))
