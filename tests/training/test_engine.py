"""The loop that every training runs on: checkpoints that survive anything, logs, and processes that know each
other."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d.files import atomic_file
from face2diffusion.training.config import TrainingConfig
from face2diffusion.training.engine import progress
from face2diffusion.training.engine.loop import Event, Task, TrainingLoop
from face2diffusion.training.engine.precision import autocast
from face2diffusion.training.engine.processes import (
    Processes,
    read_environment,
    require_one_process,
    start_processes,
)
from face2diffusion.training.engine.run_folder import Run
from face2diffusion.training.engine.seeds import uniform
from safetensors.torch import load_file
from support.kills import kill_at
from torch.utils.data import Dataset

ALONE = Processes(0, 1, "cpu")


class Points(Dataset):
    """Points of a plane, by number."""

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        x = torch.randn(3, generator=torch.Generator().manual_seed(number))
        return {"x": x, "y": x @ torch.tensor([1.0, -2.0, 3.0]), "index": torch.tensor(number)}


def train(
    out: Path, steps: int = 12, log: Callable[[str], None] = lambda line: None, events=(), **changes
) -> Path:
    """Fit the plane; returns the last weight file."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    settings = {"batch_size": 4, "save_every": 3, "log_every": 1, "workers": 0, "keep": 100, **changes}
    config = TrainingConfig(out=str(out), lr=0.1, **settings)
    run = Run(out, config, config.keep)

    def compute_loss(batch: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        with autocast("cpu", config.precision):
            found = network(batch["x"])[:, 0]
        return (found.float() - batch["y"]).square().mean()

    task = Task(
        kind="fit",
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.1),
        compute_loss=compute_loss,
        learning_rate=lambda step: 0.1 / (step + 1),
        steps=steps,
        samples=Points(),
        events=events,
    )
    try:
        return TrainingLoop(config, task, run, ALONE, log).train()
    finally:
        run.close()


def values_of(weights: Path) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in load_file(weights).items()}


def stop_at(step: int, number: int = signal.SIGTERM) -> Callable[[str], None]:
    def log(line: str) -> None:
        if f"step {step}/" in line:
            os.kill(os.getpid(), number)

    return log


def names(folder: Path, pattern: str = "*-0*") -> set[str]:
    return {file.name for file in folder.glob(pattern)}


# --- Checkpoints ---


@pytest.mark.parametrize("changes", [{}, {"ema": 0.5}, {"precision": "fp16"}, {"accumulate": 2}])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path, changes):
    unbroken = train(tmp_path / "unbroken", **changes)
    assert train(tmp_path / "run", log=stop_at(5), **changes).name == "fit-00000005.safetensors"
    assert (
        train(tmp_path / "run", log=stop_at(7, signal.SIGINT), **changes).name == "fit-00000007.safetensors"
    )
    assert values_of(train(tmp_path / "run", **changes)) == values_of(unbroken)


def test_only_what_is_committed_stays(tmp_path, monkeypatch):
    """Killed between the files of step 9 and their commit; resumed; stopped at step 7: that run can be
    resumed."""
    unbroken = train(tmp_path / "unbroken")
    run = tmp_path / "run"

    def die(self, step, *args, **options):
        raise MemoryError

    train(run, log=stop_at(6))
    (run / "state-00000009.pt").write_bytes(b"half")
    (run / "fit-00000009.safetensors").write_bytes(b"half")
    (run / ".f2d-0123.pt").write_bytes(b"half")
    train(run, log=stop_at(7))
    assert names(run, "state-*") == {"state-00000006.pt", "state-00000007.pt"}
    assert names(run, "fit-*") == {f"fit-0000000{step}.safetensors" for step in (3, 6, 7)}
    assert not names(run, ".f2d-*")
    monkeypatch.setattr(Run, "save", die)
    with pytest.raises(MemoryError):
        train(run)
    monkeypatch.undo()
    assert "state-00000009.pt" in names(run)
    assert values_of(train(run)) == values_of(unbroken)


@pytest.mark.parametrize("damaged", ["checkpoint.json", "state-00000006.pt"])
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damaged, how):
    unbroken = train(tmp_path / "unbroken")
    run = tmp_path / "run"
    train(run, log=stop_at(6))
    file = run / damaged
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    lines: list[str] = []
    assert values_of(train(run, log=lines.append)) == values_of(unbroken)
    assert "step 3 of 12" in lines[0]
    if damaged != "checkpoint.json" or how != "missing":
        assert "damaged; resuming from the one before it, at step 3" in caplog.text


def test_a_run_with_two_damaged_checkpoints_is_refused_and_stays_as_it_is(tmp_path):
    train(tmp_path, log=stop_at(6))
    for step in (3, 6):
        (tmp_path / f"state-0000000{step}.pt").write_bytes(b"nothing")
    before = names(tmp_path)
    with pytest.raises(ValueError, match="All checkpoints .* are damaged"):
        train(tmp_path)
    assert names(tmp_path) == before


def test_files_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        order.append("folder" if os.path.isdir(name) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("name") or replace(*paths))
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which files are synchronized")
    with atomic_file(tmp_path / "file.txt") as temporary:
        Path(temporary).write_text("text")
    assert order == ["file", "name", "folder"]


def test_weights_that_are_gone_are_written_again(tmp_path):
    weights = train(tmp_path)
    before = values_of(weights)
    weights.unlink()
    assert values_of(train(tmp_path)) == before


@pytest.mark.slow
def test_a_kill_at_any_call_of_a_save_changes_nothing(tmp_path):
    """Each of the calls that bring a file or a name to the disk is once the last one."""
    changes = {"steps": 4, "save_every": 2, "report_to": (), "keep": 1}
    unbroken = values_of(train(tmp_path / "unbroken", **changes))
    call, killed = 1, True
    while killed:
        run = tmp_path / str(call)
        killed = kill_at(call, lambda run=run: train(run, **changes))
        assert values_of(train(run, **changes)) == unbroken, f"killed at call {call}"
        assert not names(run, ".f2d-*")
        call += 1
    assert call - 2 == 3 * (1 + 3 + 4), "three calls a file: config.json, the first save, the second one"


def test_a_killed_loader_process_ends_the_run_with_one_line_and_it_resumes(tmp_path, monkeypatch):
    unbroken = train(tmp_path / "unbroken")
    get = Points.__getitem__

    def die(self, number: int) -> dict[str, torch.Tensor]:
        if number == 21:
            os.kill(os.getpid(), signal.SIGKILL)
        return get(self, number)

    monkeypatch.setattr(Points, "__getitem__", die)
    with pytest.raises(ConnectionError, match="loads samples died .*Rerun the command.*--workers"):
        train(tmp_path / "run", workers=1)
    monkeypatch.undo()
    assert values_of(train(tmp_path / "run")) == values_of(unbroken)


# --- Events ---


def test_what_is_done_now_and_then_follows_a_checkpoint_and_cannot_end_the_run(tmp_path):
    lines: list[str] = []
    saved: list[bool] = []

    def act(step: int, weights) -> None:
        saved.append((tmp_path / f"state-{step:08d}.pt").exists())
        raise RuntimeError("nothing works")

    assert train(tmp_path, log=lines.append, events=[Event("Act", 5, act)]).name == "fit-00000012.safetensors"
    assert saved == [True, True]
    assert [line for line in lines if "Act failed at step 5" in line and "nothing works" in line]


# --- Numbers that are not finite ---


def test_a_batch_that_is_not_finite_is_named(tmp_path, monkeypatch):
    get = Points.__getitem__
    monkeypatch.setattr(
        Points,
        "__getitem__",
        lambda self, number: get(self, number) | ({"y": torch.tensor(torch.inf)} if number == 21 else {}),
    )
    with pytest.raises(FloatingPointError, match=r"loss is inf at step 5 .*20, 21, 22, 23.*fit-00000003"):
        train(tmp_path)


def test_an_overflow_in_fp16_leaves_out_the_step(tmp_path, monkeypatch):
    """The loss is finite, its gradient in half precision is not: the scale halves, and training continues."""
    real = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda *args, **options: real(*args, init_scale=2.0**40, **options)
    )
    train(tmp_path, precision="fp16")
    scale = torch.load(tmp_path / "state-00000012.pt", weights_only=True)["scaler"]["scale"]
    assert scale == 2.0**28, "halved at each of the 12 steps"


# --- The log ---


def events_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {
        name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_the_log_has_means_of_intervals_and_the_learning_rate(tmp_path):
    train(tmp_path / "each")
    lines: list[str] = []
    train(tmp_path / "run", log=lines.append, log_every=4)
    each, found = events_of(tmp_path / "each"), events_of(tmp_path / "run")
    assert {"loss", "gradient_norm", "lr", "images_per_second", "memory_gib"} <= found.keys()
    for name in ("loss", "gradient_norm"):
        values = [value for _, value in each[name]]
        means = [(end, pytest.approx(sum(values[end - 4 : end]) / 4, rel=1e-5)) for end in (4, 8, 12)]
        assert found[name] == means
    assert found["lr"] == [(step, pytest.approx(0.1 / step)) for step in (4, 8, 12)]
    assert [line.split("step ")[1].split()[0] for line in lines if "/12" in line] == ["4/12", "8/12", "12/12"]
    assert all("left" in line for line in lines if "/12" in line)


def test_no_step_is_logged_twice_after_a_kill(tmp_path, monkeypatch):
    """Killed at step 8, whose log was written, with the checkpoint of step 6."""

    def kill(line: str) -> None:
        if "step 8/" in line:
            raise MemoryError

    with pytest.raises(MemoryError):
        train(tmp_path, log=kill)
    assert [step for step, _ in events_of(tmp_path)["loss"]] == list(range(1, 9))
    time.sleep(1)  # TensorBoard sorts files by name, and within a second .10 comes before .9
    train(tmp_path)
    assert [step for step, _ in events_of(tmp_path)["loss"]] == list(range(1, 13))


def test_wandb_gets_the_curves_and_its_run_continues(tmp_path, monkeypatch):
    """A stand-in for wandb's own package, which drops steps that it already has."""
    begun, logged = [], []

    def init(**options):
        begun.append(options)
        run = types.SimpleNamespace(id="abc", finish=lambda: None)
        run.log = lambda values, step: logged.append((step, values))
        return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for _ in range(2):
        train(tmp_path / "plane", steps=3 + 3 * len(begun), report_to=("wandb", "tensorboard"))
    assert [(one["name"], one["id"], one["resume"]) for one in begun] == [
        ("plane", None, "allow"),
        ("plane", "abc", "allow"),
    ]
    assert [step for step, _ in logged] == list(range(1, 7))
    assert [value for _, value in events_of(tmp_path / "plane")["loss"]] == [
        pytest.approx(values["loss"]) for _, values in logged
    ]


def test_trackers_that_cannot_be_used_are_named_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="wandb is not installed.*pip install wandb.*--report-to"):
        train(tmp_path / "run", report_to=("tensorboard", "wandb"))
    with pytest.raises(ValueError, match="--report-to.*'mlflow'.*tensorboard, wandb"):
        train(tmp_path / "run", report_to=("mlflow",))
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", report_to=())
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_terminal_shows_a_bar_instead_of_lines(tmp_path, monkeypatch, capsys):
    lines: list[str] = []
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    train(tmp_path / "plane", log=lines.append)
    shown = capsys.readouterr().err
    assert "12/12" in shown and "plane" in shown and "loss" in shown
    assert not [line for line in lines if "/12" in line]


def test_a_terminal_is_what_stderr_is(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress.on_terminal()


# --- Processes ---


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    """As where the environment says 2, but a group of one was made before; without this each would train the
    entire run."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with (
        pytest.raises(ValueError, match=r"WORLD_SIZE is 1, but torch.distributed has 2"),
        start_processes("cpu"),
    ):
        pass


def test_what_cannot_be_divided_is_refused_in_several_processes(monkeypatch):
    assert require_one_process("It").world == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (read_environment("cpu").rank, read_environment("cpu").world) == (1, 2)
    with pytest.raises(ValueError, match="It runs in one process, but WORLD_SIZE is 2"):
        require_one_process("It")


# --- Seeds ---


def test_streams_are_splitmix64():
    """The first numbers of the public algorithm for the seed 1234567, and its place in a stream."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = uniform(torch.tensor([1234567, 5]), 0, 4)
    assert found[0].tolist() == pytest.approx([number / 2**64 for number in known], abs=2**-24)
    assert torch.equal(uniform(torch.tensor([1234567]), 2, 2)[0], found[0, 2:])
    numbers = uniform(torch.arange(200), 0, 500)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.005)
