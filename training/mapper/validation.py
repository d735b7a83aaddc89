"""Validation: how well the mapper predicts for faces that it is never trained on, with fixed noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...f2d.files import write_json
from ...f2d.networks.mapping import MapperConfig, MappingNetwork
from ..config import MapperTrainingConfig
from ..data.cache import LatentCache
from ..engine.attention import fastest_attention
from ..engine.means import RunningMeans
from ..engine.precision import autocast
from ..engine.processes import ALONE, Processes
from ..engine.run_folder import Run
from ..engine.sampling import Batch
from ..engine.seeds import derive_seed
from .dataset import split_cache
from .denoising import FrozenDiffusion
from .region_errors import BINS, region_errors, with_bins

_NOISE = 3  # what a seed is for
_BATCH = 16  # samples at once, whatever the number of processes, so that this does not change a bit


class Validation:
    """Measures the errors inside and outside M of held-out faces, into validation.json, log and trackers.

    Each face is measured at one timestep of each bin, as prepared, with its expression and its latent's mean.
    """

    def __init__(
        self,
        config: MapperTrainingConfig,
        mapper: MapperConfig,
        cache: LatentCache,
        diffusion: FrozenDiffusion,
        processes: Processes,
        run: Run,
        log: Callable[[str], None],
    ) -> None:
        """Choose the faces.

        Args:
            config: of the run.
            mapper: sizes of the mapper.
            cache: of faces.
            diffusion: where it is trained.
            processes: of the run.
            run: the folder.
            log: called with a line for each validation, in process 0.

        Raises:
            ValueError: no face would be left to train on.
        """
        self.config, self.mapper, self.cache = config, mapper, cache
        self.diffusion, self.processes, self.run, self.log = diffusion, processes, run, log
        self.faces = split_cache(cache, config)[1]
        self.file = run.folder / "validation.json"

    def done(self, step: int) -> bool:
        """Tell whether there is nothing to measure after a step, f.i. as it was done before a kill."""
        return any(entry["step"] == step for entry in self._read())

    def _read(self) -> list[dict[str, Any]]:
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else []

    def write(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Measure, and write the means down.

        Args:
            step: how many are done.
            weights: of the mapper.

        Raises:
            RuntimeError: a process failed, f.i. for lack of memory.
            OSError: the folder cannot be written to.
        """
        means = self.measure(weights)
        if not self.processes.first:
            return
        before = [entry for entry in self._read() if entry["step"] < step]
        write_json(self.file, [*before, {"step": step, **means}], indent=1)
        self.run.log(step, **{f"validation/{name}": value for name, value in means.items()})
        shown = ", ".join(f"{name} M {means[key]:.5f}" for name, key in _SHOWN if key in means)
        self.log(f"{self.run.folder.name}: validation at step {step}, {len(self.faces)} faces: {shown}")

    @torch.no_grad()
    def measure(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Compute the means over all held-out faces; all processes take part and get the same numbers.

        Args:
            weights: of the mapper.

        Returns:
            by name, as `with_bins` names them.
        """
        mapper = MappingNetwork(self.mapper).to(self.processes.device).eval()
        mapper.load_state_dict(weights)
        jobs = [(face, part) for face in self.faces for part in range(BINS)]
        batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
        rank, world = self.processes.rank, self.processes.world
        mine = batches[rank::world]
        shares = self.processes.gather_work(lambda: [self._errors(batch, mapper) for batch in mine])
        total = RunningMeans()
        for place in range(len(batches)):
            total.add(shares[place % world][place // world])
        return total.take(ALONE)

    def _errors(self, jobs: Sequence[tuple[int, int]], mapper: MappingNetwork) -> dict[str, Tensor]:
        """Compute the errors of some faces and bins; by name, shape (B, 2), on the CPU."""
        samples = [self._sample(*job) for job in jobs]
        device = self.processes.device
        batch: Batch = {name: torch.stack([one[name] for one in samples]).to(device) for name in samples[0]}
        diffusion, time = self.diffusion, batch["time"]
        with fastest_attention(self.processes.device_type, self.cache.latent_size**2):
            with autocast(device, self.config.precision):
                words = mapper(batch["v_id"], batch.get("v_exp"))
            noisy, target = diffusion.add_noise(batch["latent"], batch["noise"], time)
            prediction = diffusion.predict(noisy, time, words.float())
            class_prediction = diffusion.predict_class(noisy, time)
        errors = region_errors(prediction, target, batch["mask"], class_prediction)
        return {name: pairs.cpu() for name, pairs in with_bins(errors, time, diffusion.steps).items()}

    def _sample(self, face: int, part: int) -> dict[str, Tensor]:
        """Make the fixed sample of a face in a timestep bin; names and shapes as in `MapperDataset`."""
        item, steps = self.cache.load(face), self.diffusion.steps
        latent = item["latent_mean"].float()
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, _NOISE, face, part))
        sample = {
            "latent": latent,
            "noise": torch.randn(latent.shape, generator=generator),
            "time": torch.randint(part * steps // BINS, (part + 1) * steps // BINS, (), generator=generator),
            "v_id": item["v_id"].float(),
            "mask": item["mask"].float()[None],
        }
        if self.config.expression_guidance:
            sample["v_exp"] = item["v_exp"].float()
        return sample


_SHOWN = (
    ("error inside", "inside"),
    ("error outside", "outside"),
    ("distance from the class prompt outside", "outside_class"),
)
