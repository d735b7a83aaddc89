"""Validation of the mapper: held-out faces, fixed noise, and curves that nothing changes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import plot_validation
import pytest
import torch
from face2diffusion.training.config import MapperTrainingConfig
from face2diffusion.training.data.cache import LatentCache
from face2diffusion.training.engine.means import RunningMeans
from face2diffusion.training.engine.processes import Processes
from face2diffusion.training.mapper.dataset import MapperDataset, split_cache
from face2diffusion.training.mapper.region_errors import region_errors, with_bins
from face2diffusion.training.mapper.train import train_mapper
from face2diffusion.training.mapper.validation import Validation
from PIL import Image
from safetensors.torch import load_file
from support import processes
from support.short_run import short_run, write_inputs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FACES = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model and a cache."""
    return write_inputs(tmp_path_factory.mktemp("training"), FACES)


@pytest.fixture
def config(folder, tmp_path):
    """A short run with 3 held-out faces."""
    return short_run(folder, tmp_path / "run", batch_size=2, log_every=2, validation=3, validate_every=2)


def curves(config: MapperTrainingConfig) -> list[dict[str, float]]:
    return json.loads((Path(config.out) / "validation.json").read_text())


def test_held_out_faces_are_never_trained_on(config):
    cache = LatentCache(config.cache)
    kept, held = split_cache(cache, config)
    assert len(held) == 3 and sorted(kept + held) == list(range(FACES))
    assert held != split_cache(cache, replace(config, seed=1))[1]
    samples = MapperDataset(cache, config, 1000)
    epochs = [
        [int(samples[number]["index"]) for number in range(7 * epoch, 7 * epoch + 7)] for epoch in (0, 1)
    ]
    assert all(sorted(epoch) == kept for epoch in epochs), "each of the others is seen once an epoch"
    with pytest.raises(ValueError, match="--validation 10 leaves no face .* has 10"):
        split_cache(cache, replace(config, validation=10))


def test_without_held_out_faces_the_samples_stay_what_they_were(config):
    cache = LatentCache(config.cache)
    assert split_cache(cache, replace(config, validation=0)) == (list(range(FACES)), [])


def test_the_curves_begin_untrained_and_are_logged(config):
    lines: list[str] = []
    train_mapper(config, lines.append)
    found = curves(config)
    assert [entry["step"] for entry in found] == [0, 2, 4]
    assert sum("validation at step" in line and "3 faces" in line for line in lines) == 3
    assert plot_validation.main([config.out, "--out", f"{config.out}/curves.png"]) == 0
    assert Image.open(f"{config.out}/curves.png").width == 960
    with pytest.raises(SystemExit):
        plot_validation.main([config.cache, "--out", f"{config.out}/none.png"])
    names = {"inside", "outside", "outside_class"}
    bins = {"t000-249", "t250-499", "t500-749", "t750-999"}
    assert found[0].keys() == {"step"} | names | {f"{name}/{part}" for name in names for part in bins}
    for name in names:
        parts = [found[1][f"{name}/{part}"] for part in sorted(bins)]
        assert found[1][name] == pytest.approx(sum(parts) / 4, rel=1e-5), "each face is in each bin once"
        assert found[0][name] != found[1][name]
    events = EventAccumulator(str(Path(config.out) / "tensorboard"))
    events.Reload()
    logged = [(one.step, one.value) for one in events.Scalars("validation/inside/t000-249")]
    assert logged == [(entry["step"], pytest.approx(entry["inside/t000-249"])) for entry in found]


def test_training_logs_errors_inside_and_outside_by_timestep(config):
    lines: list[str] = []
    train_mapper(replace(config, batch_size=4), lines.append)
    assert sum("  inside " in line and "  outside_class " in line for line in lines) == 2
    events = EventAccumulator(str(Path(config.out) / "tensorboard"))
    events.Reload()
    assert {"inside", "outside", "outside_class"} <= set(events.Tags()["scalars"])
    assert any(name.startswith("inside/t") for name in events.Tags()["scalars"])
    assert "images_per_second" in events.Tags()["scalars"]


def test_a_run_without_validation_says_so(config):
    lines: list[str] = []
    train_mapper(replace(config, validation=0), lines.append)
    assert sum("No validation" in line and "--validation 64" in line for line in lines) == 1
    assert not (Path(config.out) / "validation.json").exists()


def test_validation_changes_nothing_in_training(config, tmp_path):
    seldom = replace(config, validate_every=1000, out=str(tmp_path / "seldom"))
    often = load_file(train_mapper(replace(config, validate_every=1), quiet))
    assert all(
        torch.equal(tensor, often[name]) for name, tensor in load_file(train_mapper(seldom, quiet)).items()
    )


def test_resumed_curves_equal_uninterrupted_ones(config, tmp_path):
    train_mapper(config, quiet)
    half = replace(config, out=str(tmp_path / "half"))
    train_mapper(replace(half, steps=2), quiet)
    train_mapper(half, quiet)
    assert curves(half) == curves(config)


def test_a_validation_that_a_kill_prevented_is_made_up_for(config, tmp_path, monkeypatch):
    """Killed after the checkpoint of step 2, before its validation."""
    train_mapper(config, quiet)
    half, write = replace(config, out=str(tmp_path / "half")), Validation.write

    def kill(self, step, weights):
        if step == 2:
            raise KeyboardInterrupt
        write(self, step, weights)

    monkeypatch.setattr(Validation, "write", kill)
    with pytest.raises(KeyboardInterrupt):
        train_mapper(half, quiet)
    assert [entry["step"] for entry in curves(half)] == [0]
    monkeypatch.undo()
    train_mapper(half, quiet)
    assert curves(half) == curves(config)


def test_a_failed_validation_does_not_end_the_run(config, monkeypatch):
    def fail(self, jobs, mapper):
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(Validation, "_errors", fail)
    lines: list[str] = []
    train_mapper(config, lines.append)
    assert sum("Validation failed" in line and "no memory is left" in line for line in lines) == 3
    assert json.loads((Path(config.out) / "checkpoint.json").read_text())["step"] == 4


@pytest.mark.slow
def test_several_processes_measure_the_same(config, tmp_path):
    """The untrained network's errors are the same to the bit, as batches do not depend on the processes."""
    train_mapper(config, quiet)
    together = replace(config, out=str(tmp_path / "together"))
    assert processes.world_of(processes.run(processes.train_mapper, asdict(together))) == 2
    alone, shared = curves(config), curves(together)
    assert alone[0] == shared[0]
    assert all(one == pytest.approx(other, rel=1e-4) for one, other in zip(alone, shared, strict=True))


# --- The errors themselves ---


def test_errors_are_means_over_their_region():
    prediction, target = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    target[..., 0] = 3.0  # the left half, which is M
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    errors = region_errors(prediction, target, mask, torch.full_like(target, 2.0))
    means = {name: (pairs[0, 0] / pairs[0, 1]).item() for name, pairs in errors.items()}
    assert means == {"inside": 9.0, "outside": 1.0, "outside_class": 4.0}


def test_means_weigh_samples_by_region_and_leave_out_empty_bins():
    errors = {"inside": torch.tensor([[6.0, 3.0], [2.0, 1.0], [0.0, 4.0]])}
    means = RunningMeans()
    means.add(with_bins(errors, torch.tensor([0, 249, 999]), 1000))
    means.add({name: 0 * pairs for name, pairs in with_bins(errors, torch.tensor([0, 0, 0]), 1000).items()})
    assert means.take(Processes(0, 1, "cpu")) == {
        "inside": 1.0,
        "inside/t000-249": 2.0,
        "inside/t750-999": 0.0,
    }
    assert means.take(Processes(0, 1, "cpu")) == {}


def quiet(message: str) -> None:
    """Log nothing."""
