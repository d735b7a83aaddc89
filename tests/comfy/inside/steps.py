"""Counts, with ComfyUI's own code, how many of two prompts each sampling step sees.

Takes a list of (subject_from, ranges); prints for each scheduler and number of steps what is not exactly one,
and one run in full.
"""

import json

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
wrong, class_steps = [], {}
for subject_from, ranges in boot.ARGUMENT:
    conds = [
        {"timestep_start": sampling.percent_to_sigma(start), "timestep_end": sampling.percent_to_sigma(end)}
        for start, end in ranges
    ]
    for (name, steps), sigmas in schedules.items():
        seen = [
            [
                comfy.samplers.get_area_and_mult(
                    {**cond, "model_conds": {}, "uuid": None}, latent, sigma[None]
                )
                is not None
                for cond in conds
            ]
            for sigma in sigmas
        ]
        wrong += [(name, steps, subject_from, index) for index, pair in enumerate(seen) if sum(pair) != 1]
        if (name, steps) == ("normal", 30):
            class_steps[subject_from] = sum(first for first, _ in seen)
print(json.dumps({"wrong": wrong, "class_steps": class_steps, "schedules": len(schedules)}))
