"""Counts, with ComfyUI's own code, how many of two prompts each sampling step sees.

Takes a list of (subject_from, ranges); prints for each scheduler and number of steps what is not exactly one,
and one run in full.
"""

import json
from functools import cache

import boot
import comfy.model_sampling
import comfy.samplers
import torch


class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """Stable Diffusion 1's noise schedule."""


sampling = Sampling()
latent = torch.zeros(1, 4, 8, 8)
schedulers = [name for name in comfy.samplers.SCHEDULER_NAMES if name != "linear_quadratic"]
schedules = {
    (name, steps): comfy.samplers.calculate_sigmas(sampling, name, steps)[:-1]
    for name in schedulers
    for steps in range(2, 61)
}


sigma_of = cache(sampling.percent_to_sigma)


@cache
def is_seen(start: float, end: float, sigma: float) -> bool:
    """Tell whether a prompt for a share of the steps is seen at a noise level; schedules share many."""
    times = {
        "timestep_start": sigma_of(start),
        "timestep_end": sigma_of(end),
    }
    cond = {**times, "model_conds": {}, "uuid": None}
    return comfy.samplers.get_area_and_mult(cond, latent, torch.tensor([sigma])) is not None


wrong, class_steps = [], {}
for subject_from, ranges in boot.ARGUMENT:
    for (name, steps), sigmas in schedules.items():
        seen = [[is_seen(start, end, sigma) for start, end in ranges] for sigma in sigmas.tolist()]
        wrong += [(name, steps, subject_from, index) for index, pair in enumerate(seen) if sum(pair) != 1]
        if (name, steps) == ("normal", 30):
            class_steps[subject_from] = sum(first for first, _ in seen)
print(json.dumps({"wrong": wrong, "class_steps": class_steps, "schedules": len(schedules)}))
