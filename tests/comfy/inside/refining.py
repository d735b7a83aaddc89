"""Refines words on a checkpoint with ComfyUI's own code, in inference mode as a running graph does.

Takes the checkpoint's path; prints what `test_refine.py` compares.
"""

import hashlib
import importlib
import json
import types

import boot
import comfy.model_management as management
import comfy.sd
import comfy.utils
import numpy as np
import torch

SIZE = 64  # px
DTYPE = "bfloat16"  # of the half-precision run; float16 takes minutes on a CPU
SETTINGS = {"strength": 1.0, "alignment": "FFHQ", "face_order": "largest", "face_index": 0, "min_score": 0.6}


def state(model: torch.nn.Module) -> dict:
    """Describe a model: its weights, and what a careless guest would leave in its modules."""
    weights = {
        name: hashlib.sha256(tensor.detach().float().cpu().numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }
    return weights | {
        f"module {name}": (type(m).__name__, sorted(vars(m)), m.training) for name, m in model.named_modules()
    }


def changes(before: dict, after: dict) -> list:
    """List what differs, at most ten of each model."""
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return [[name, before.get(name), after.get(name)] for name in names[:10]]


def person_with(words: torch.Tensor) -> types.SimpleNamespace:
    """An identity that gives some words, with an encoder that needs no detector."""
    mapper = types.SimpleNamespace(config=types.SimpleNamespace(positional="replace"))
    encoder = types.SimpleNamespace(mapper=mapper, detector=None, refine=lambda identity, refined: refined)
    return types.SimpleNamespace(words=lambda expression=None: words, encoder=encoder, identity=None)


def refine(model, clip, vae, words, steps=1, seed=1, **more) -> torch.Tensor:
    """Run the node; returns the refined words, shape (2, D)."""
    image = torch.from_numpy(np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32))
    inputs = {**SETTINGS, "identity": person_with(words), "image": image, "size": SIZE, **more}
    node = boot.node("F2DRefineIdentity")
    return node.execute(model=model, clip=clip, vae=vae, steps=steps, seed=seed, **inputs).result[0].identity


def predicted_as_the_sampler_does(model, clip, words) -> float:
    """Compare the denoiser's prediction with the sampler's, of the prompt encoded behind Inject S*."""
    package = boot.node("F2DRefineIdentity").__module__.rpartition(".")[0]
    denoiser_class = importlib.import_module(f"{package}.model_denoiser").ModelDenoiser
    denoiser = denoiser_class(model, clip, words, "replace")
    injected = boot.node("InjectSStar").execute(clip, person_with(words), 1.0, "S*").result[0]
    states = injected.encode_from_tokens(injected.tokenize("A photo of S*"))
    latent, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([100, 900])
    noisy, target = denoiser.add_noise(latent, noise, time)
    got = denoiser.predict(noisy, time, words[None])
    sigma = model.model.model_sampling.sigmas[time]
    clean = model.model.apply_model(noisy, sigma, c_crossattn=states.expand(2, -1, -1))
    wanted = (noisy - clean) / sigma.view(2, 1, 1, 1)
    assert torch.equal(target, noise)
    return float((got - wanted).abs().max() / wanted.abs().max())


def with_patch(model):
    """Clone a MODEL, with a patch on one matrix that sees the words."""
    key = next(name for name in model.model.state_dict() if name.endswith("attn2.to_v.weight"))
    difference = torch.randn(model.model.state_dict()[key].shape, generator=torch.Generator().manual_seed(2))
    clone = model.clone()
    clone.add_patches({key: ("diff", (0.1 * difference,))})
    return clone


def error_of(*arguments, **more) -> str:
    """Run the node, and describe its error."""
    try:
        refine(*arguments, **more)
    except BaseException as error:  # an interruption is no Exception
        return f"{type(error).__name__}: {error}"
    return ""


boot.load_pack()
seen = []


def watch(value, total, preview, node_id=None) -> None:
    """Cancel the run of ten steps after its first."""
    seen.append((value, total, preview is not None))
    if total == 10 and value == 1:
        management.interrupt_current_processing(True)


comfy.utils.set_progress_bar_global_hook(watch)
with torch.inference_mode():
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(boot.ARGUMENT)
    words = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    management.load_models_gpu([model, clip.patcher])
    before = state(model.model), state(clip.cond_stage_model)
    refined = refine(model, clip, vae, words)
    found = {
        "moved": float((refined - words).abs().mean()),
        "patched": torch.equal(refined, refine(with_patch(model), clip, vae, words)),
        "again": torch.equal(refined, refine(model, clip, vae, words)),
        "progress": seen[:1],
        "sampler": predicted_as_the_sampler_does(model, clip, words),
        "cancelled": error_of(model, clip, vae, words, steps=10).partition(":")[0],
        "cancelled_after": max(value for value, total, _ in seen if total == 10),
        "mask": error_of(model, clip, vae, words, mask=torch.zeros(2, SIZE, SIZE)),
        "masks": error_of(model, clip, vae, words, mask=torch.ones(3, SIZE, SIZE)),
        "wide": error_of(model, clip, vae, torch.zeros(2, 1024)),
    }
    unet_config = model.model.model_config.unet_config
    unet_config["in_channels"] = 9
    found["inpainting"] = error_of(model, clip, vae, words)
    unet_config["in_channels"] = 4
    management.load_models_gpu([model, clip.patcher])
    after = state(model.model), state(clip.cond_stage_model)
    found["changed"] = [change for pair in zip(before, after, strict=True) for change in changes(*pair)]
    dtype = getattr(torch, DTYPE)
    half, half_clip, *_ = comfy.sd.load_checkpoint_guess_config(
        boot.ARGUMENT, output_vae=False, model_options={"dtype": dtype}, te_model_options={"dtype": dtype}
    )
    other = refine(half, half_clip, vae, words)
    signs = torch.sign(refined - words) == torch.sign(other - words)  # Adam's first step is the sign
    found["half"] = [str(next(half.model.diffusion_model.parameters()).dtype), float(signs.float().mean())]
print(json.dumps(found))
