"""Pre-training the identity encoder: it learns, resumes, stops cleanly, and does the same in one process and
in several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from face2diffusion.f2d.checkpoint import read
from face2diffusion.f2d.networks.msid import MSIDConfig, load_msid
from face2diffusion.training.config import MSIDTrainingConfig
from face2diffusion.training.data.face_datasets import FaceDataset, open_faces
from face2diffusion.training.engine.processes import ALONE
from face2diffusion.training.msid.classifier import ClassifierTraining, ShardedClassifier
from face2diffusion.training.msid.drop_path import sampled_drop_path
from face2diffusion.training.msid.train import Schedule, build_encoder, make_task, train_msid
from face2diffusion.training.msid.verification import compare, sample_triplets
from support import processes
from support.identities import write_folders

STEPS = 24
TINY = {
    "image_size": 16,
    "embed_dim": 32,
    "depth": 2,
    "heads": 2,
    "depths": (1, 2),
    "batch_size": 16,
    "epochs": 8,  # 48 faces, 3 steps an epoch
    "warmup_epochs": 1.0,
    "save_every": 5,
    "log_every": 1,
    "workers": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("faces") / "data", identities=6, photos=8)


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an unbroken run in one process."""
    return train(data, tmp_path_factory.mktemp("unbroken") / "run")


def settings(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {**TINY, "data": str(data), "out": str(out), **changes}


def train(data: Path, out: Path, log: Callable[[str], None] = lambda message: None, **changes: Any) -> Path:
    return train_msid(MSIDTrainingConfig(**settings(data, out, **changes)), log)


def difference(first: Path, second: Path) -> float:
    one, other = read(first).tensors, read(second).tensors
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"Expected it within {seconds} s"
        time.sleep(0.02)


# --- It learns, and its file is one of ours ---


def test_it_learns(data: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    others = open_faces(write_folders(tmp_path / "others", identities=40, photos=2, first_photo=50))
    before = None

    def listen(message: str) -> None:
        if "  loss " in message:
            losses.append(float(message.split("  loss ")[1].split()[0]))

    weights = train(
        data,
        tmp_path / "run",
        listen,
        epochs=60,
        verification=str(tmp_path / "others"),
        log_every=5,
        save_every=200,
    )
    first = train(data, tmp_path / "first", epochs=1, lr=1e-9)
    triplets = sample_triplets(others.labels)
    before, after = (compare(load_msid(read(file)), others, triplets) for file in (first, weights))
    print([(depth, before[depth].auc, after[depth].auc) for depth in after], losses[:3], losses[-3:])
    assert sum(losses[-3:]) < 0.3 * sum(losses[:3])
    assert all(after[depth].auc > before[depth].auc for depth in (1, 2))
    report = json.loads((tmp_path / "run" / "verification.json").read_text())
    assert [depth["auc"] for depth in report["depths"]] == pytest.approx(
        [after[depth].auc for depth in (1, 2)]
    )
    assert (tmp_path / "run" / "verification.png").stat().st_size > 5000


def test_the_file_loads_as_it_is(unbroken: Path) -> None:
    encoder = load_msid(read(unbroken))
    assert encoder.config == MSIDConfig(16, 8, 32, 2, 2, 4.0, (1, 2), (1, 2))
    assert encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 64)
    assert unbroken.name == f"msid-{STEPS:08d}.safetensors"


def test_plain_arcface_is_the_deepest_depth_alone(data: Path, tmp_path: Path) -> None:
    weights = train(data, tmp_path / "run", depths=(2,), epochs=1)
    assert load_msid(read(weights)).config.normed == (2,)
    shallow = load_msid(read(weights), depths=(1, 2))  # ArcFace w/ multi-scale features
    assert shallow(torch.zeros(1, 3, 16, 16)).shape == (1, 64)


def test_the_log_has_loss_norm_speed_and_memory(unbroken: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(unbroken.parent / "tensorboard"))
    events.Reload()
    assert {"loss", "gradient_norm", "images_per_second", "memory_gib", "lr"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("loss")) == STEPS


def test_the_last_checkpoints_are_kept(unbroken: Path) -> None:
    names = sorted(file.name for file in unbroken.parent.glob("*.safetensors"))
    assert names == [f"msid-{step:08d}.safetensors" for step in (15, 20, 24)]


def test_the_learning_rate_warms_up_and_decays_linearly() -> None:
    schedule = Schedule.of(MSIDTrainingConfig(epochs=30, batch_size=10), faces=100)
    rates = [schedule.at(step) for step in range(schedule.steps)]
    assert len(rates) == 300
    assert rates[0] == pytest.approx(1e-3 / 30) and rates[29] == pytest.approx(1e-3) == rates[30]
    assert rates[165] == pytest.approx(0.5e-3) and rates[-1] == pytest.approx(1e-3 / 270)


@pytest.mark.parametrize("precision", ["bf16", "no"])
@pytest.mark.parametrize("changes", [{"workers": 2}, {"sample_rate": 0.5}], ids=["workers", "sampled"])
def test_other_settings_run(data: Path, tmp_path: Path, precision: str, changes: dict[str, Any]) -> None:
    weights = train(data, tmp_path / "run", precision=precision, epochs=1, **changes)
    assert all(tensor.isfinite().all() for tensor in read(weights).tensors.values())


# --- Stopping and going on ---


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(data: Path, unbroken: Path, tmp_path: Path) -> None:
    """SIGTERM saves at once, in the middle of an epoch and of an interval."""

    def stop(message: str) -> None:
        if "step 7/" in message:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(data, tmp_path / "run", stop)
    assert stopped.name == "msid-00000007.safetensors"
    said: list[str] = []
    weights = train(data, tmp_path / "run", said.append)
    assert any("step 7 of 24" in line for line in said)
    assert difference(weights, unbroken) == 0
    for name in ("weight", "exp_avg", "exp_avg_sq"):
        assert torch.equal(*(rows(file.parent, name) for file in (weights, unbroken)))
    assert train(data, tmp_path / "run") == weights  # a finished run has nothing to do


def test_a_run_folder_of_other_data_or_settings_is_refused(
    data: Path, unbroken: Path, tmp_path: Path
) -> None:
    other = write_folders(tmp_path / "data", identities=7, photos=8)
    with pytest.raises(ValueError, match=r"other settings: data \w{8}, not \w{8}\. Use another --out"):
        train(other, unbroken.parent)
    run = tmp_path / "run"
    train(data, run, epochs=1)
    (data / "person-000" / "more.png").write_bytes((data / "person-000" / "0.png").read_bytes())
    try:
        with pytest.raises(ValueError, match="other settings: data"):
            train(data, run, epochs=1)
    finally:
        (data / "person-000" / "more.png").unlink()


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError,
        match=r"(loss|gradient) is (nan|inf) at step \d+ .*\(faces \d+, .*rank 0\).*rate.*No checkpoint",
    ):
        train(data, tmp_path / "run", lr=1e20, warmup_epochs=0.0)
    train(data, tmp_path / "good", epochs=1)


def test_bad_input_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch size 1 .*at least 2 images"):
        train(data, tmp_path / "run", batch_size=1)
    with pytest.raises(ValueError, match=r"depths \(1, 3\) must increase and be from 1 to 2"):
        train(data, tmp_path / "run", depths=(1, 3))
    with pytest.raises(ValueError, match="only the identity 'person-000'"):
        train(write_folders(tmp_path / "one", identities=1), tmp_path / "run")
    broken = write_folders(tmp_path / "broken", identities=2, photos=4)
    (broken / "person-001" / "2.png").write_bytes(b"nothing")
    train(broken, tmp_path / "run", workers=0, epochs=2, batch_size=4)
    train(broken, tmp_path / "run", workers=0, epochs=4, batch_size=4)  # resumes: no number has changed


# --- Several processes ---


def rows(run: Path, name: str) -> torch.Tensor:
    """All rows of the classifier, or of AdamW's moments of it, at the last checkpoint, (K, C)."""
    step = json.loads((run / "checkpoint.json").read_text())["step"]
    files = sorted(run.glob(f"state-{step:08d}-*.pt"))
    return torch.cat([torch.load(file, weights_only=True)[name] for file in files])


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(data: Path, unbroken: Path, tmp_path: Path) -> None:
    answers = processes.run(processes.train, settings(data, tmp_path / "run"))
    assert processes.world_of(answers) == 2
    assert answers[0][0] == answers[1][0]
    assert difference(answers[0][0], unbroken) < 1e-5
    parts = sorted((tmp_path / "run").glob("state-00000024-*-of-2.pt"))
    assert [len(torch.load(file, weights_only=True)["weight"]) for file in parts] == [3, 3]
    for name in ("weight", "exp_avg"):
        assert torch.allclose(rows(tmp_path / "run", name), rows(unbroken.parent, name), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 4])
def test_a_run_resumes_with_another_number_of_processes(
    data: Path, unbroken: Path, tmp_path: Path, world: int
) -> None:
    """The rows of the classifier are divided anew, also where the last process gets none: 6 classes are 2 + 2
    + 2 + 0."""
    run = tmp_path / "run"
    begun = processes.run(processes.train, settings(data, run, epochs=4))
    assert processes.world_of(begun) == 2
    before = rows(run, "exp_avg")
    resumed = processes.run(processes.train, settings(data, run, epochs=4), world=world)
    assert processes.world_of(resumed) == world
    assert "step 12 of 12" in "".join(resumed[0][1]) and torch.equal(rows(run, "exp_avg"), before)
    answers = processes.run(processes.train, settings(data, run, epochs=8, warmup_epochs=1.0), world=world)
    assert processes.world_of(answers) == world
    assert len(list(run.glob("state-00000024-*.pt"))) == world
    alone = tmp_path / "alone"
    train(data, alone, epochs=4)
    assert difference(answers[0][0], train(data, alone, epochs=8)) < 1e-5


def test_rows_are_divided_anew(tmp_path: Path) -> None:
    config = MSIDTrainingConfig(lr=0.1)

    def build(rank: int, world: int, seed: int) -> ClassifierTraining:
        return ClassifierTraining(ShardedClassifier(7, 4, seed=seed, rank=rank, world=world), config)

    parts = []
    for rank in range(3):
        one = build(rank, 3, seed=1)
        one.classifier.weight.grad = torch.full_like(one.classifier.weight, rank + 1.0)
        one.optimizer.step()
        parts.append(one.state())
    assert [len(part["weight"]) for part in parts] == [3, 3, 1]
    for world in (1, 2, 5):
        found = []
        for rank in range(world):
            one = build(rank, world, seed=2)
            one.load(parts)
            found.append(one.state())
        for name in ("weight", "exp_avg", "exp_avg_sq"):
            assert torch.equal(*(torch.cat([part[name] for part in some]) for some in (found, parts)))
        assert all(part["step"] == 1 for part in found)


@pytest.mark.slow
def test_killing_one_process_ends_the_other_with_an_error_and_the_run_resumes(
    data: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = processes.Processes(processes.train, settings(data, run), 20.0, 0.1)
    wait_for(lambda: (run / "checkpoint.json").exists())
    job.processes[1].kill()
    start = time.monotonic()
    answers = job.wait(40)
    assert time.monotonic() - start < 30
    assert isinstance(answers[0], ConnectionError), answers
    assert "2 processes crashed or timed out" in str(answers[0])
    answers = processes.run(processes.train, settings(data, run))
    assert processes.world_of(answers) == 2
    assert difference(answers[0][0], unbroken) < 1e-5


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    data: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = processes.Processes(processes.train, settings(data, run), 20.0, 0.1)
    wait_for(lambda: (run / "checkpoint.json").exists())
    os.kill(job.processes[1].pid, signal.SIGTERM)
    answers = job.wait(40)
    assert processes.world_of(answers) == 2
    assert answers[0][0] == answers[1][0]
    assert answers[0][0].name < unbroken.name
    assert difference(processes.run(processes.train, settings(data, run))[1][0], unbroken) < 1e-5


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_other_with_an_error(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = processes.Processes(processes.train, settings(data, run), 3.0, 0.1)
    wait_for(lambda: (run / "checkpoint.json").exists())
    os.kill(job.processes[1].pid, signal.SIGSTOP)
    start = time.monotonic()
    assert job.ends[0].poll(30)
    assert isinstance(job.ends[0].recv(), ConnectionError)
    assert 1 < time.monotonic() - start < 15
    for process in job.processes:
        process.kill()
        process.join()


@pytest.mark.slow
def test_torchrun_ends_with_an_error_when_a_process_is_killed(data: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc to find the processes that torchrun has started")
    run = tmp_path / "run"
    options = settings(data, run, epochs=100_000, log_every=1000, save_every=50)
    arguments = [
        part
        for name, value in options.items()
        for part in (
            f"--{name.replace('_', '-')}",
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value),
        )
    ]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={processes.free_port()}",
    ]
    command += ["-m", "face2diffusion.training.cli", "msid", *arguments]
    launcher = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        wait_for(lambda: (run / "checkpoint.json").exists() or launcher.poll() is not None)
        assert launcher.poll() is None, launcher.communicate()[0]
        children = [
            int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        ]
        os.kill(children[-1], signal.SIGKILL)
        output, _ = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert launcher.returncode != 0, output


# --- What the paper leaves open ---


def test_drop_path_skips_branches_by_sample(data: Path) -> None:
    """A sample skips the same layers in any batch; the first layer is never skipped, and means stay."""
    encoder = build_encoder(MSIDTrainingConfig(**settings(data, Path(), depth=3, depths=(3,))))
    seeds = torch.arange(64)
    kept = torch.stack([drops(encoder, rate, seeds) for rate in (0.0, 0.5)])  # (2, 6, B)
    assert (kept[0] == 1).all() and (kept[1, :2] == 1).all()
    assert set(kept[1, 4:].unique().tolist()) == {0.0, 2.0}
    assert kept[1, 4:].mean().item() == pytest.approx(1, abs=0.3)
    assert torch.equal(drops(encoder, 0.5, seeds[10:12]), kept[1, :, 10:12])


def drops(encoder: torch.nn.Module, rate: float, seeds: torch.Tensor) -> torch.Tensor:
    """What each branch of each sample is multiplied by, (2 * layers, B)."""
    with sampled_drop_path(encoder, rate, seeds):
        branches = [branch for block in encoder.blocks for branch in (block.drop_path1, block.drop_path2)]
        return torch.stack([branch(torch.ones(len(seeds), 1, 1))[:, 0, 0] for branch in branches])


def test_drop_path_changes_the_run_and_resumes(data: Path, unbroken: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"drop_path": 0.3, "epochs": 2}
    other = train(data, tmp_path / "other", **changes)
    assert difference(other, train(data, tmp_path / "plain", epochs=2)) > 1e-4
    assert difference(other, train(data, tmp_path / "again", accumulate=1, **changes)) == 0


def test_betas_and_eps_go_to_both_optimizers(data: Path, tmp_path: Path) -> None:
    from face2diffusion.training.engine.optimizer import make_optimizer

    config = MSIDTrainingConfig(betas=(0.5, 0.6), eps=1e-3)
    (group,) = make_optimizer([torch.nn.Parameter(torch.ones(1))], config).param_groups
    assert (tuple(group["betas"]), group["eps"]) == ((0.5, 0.6), 1e-3)
    default = make_optimizer([torch.nn.Parameter(torch.ones(1))], MSIDTrainingConfig()).param_groups[0]
    assert (tuple(default["betas"]), default["eps"]) == ((0.9, 0.999), 1e-8)


# --- At scale ---


def test_the_gradient_of_accumulated_parts_is_that_of_the_batch(data: Path) -> None:
    """The softmax is over all classes for each sample; only batch statistics, off here, know the batch."""
    config = MSIDTrainingConfig(**settings(data, Path()))
    faces = open_faces(data)
    samples = FaceDataset(faces, 16)
    batch = torch.utils.data.default_collate([samples[number] for number in range(16)])
    gradients = []
    for parts in (1, 4):
        task = make_task(config, faces, ALONE)
        task.network.eval()
        for part in range(parts):
            rows = {name: tensor[part * 16 // parts :][: 16 // parts] for name, tensor in batch.items()}
            (task.compute_loss(rows, 0) / parts).backward()
        trained = [p.grad for p in task.network.parameters() if p.requires_grad]
        gradients.append(
            torch.cat([grad.flatten() for grad in (*trained, task.divided.classifier.weight.grad)])
        )
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()


def test_accumulated_runs_resume_to_the_bit(data: Path, tmp_path: Path) -> None:
    unbroken = train(data, tmp_path / "unbroken", accumulate=4, epochs=4)

    def stop(line: str) -> None:
        if "step 7/" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    train(data, tmp_path / "run", stop, accumulate=4, epochs=4)
    assert difference(train(data, tmp_path / "run", accumulate=4, epochs=4), unbroken) == 0


def test_it_is_verified_every_few_epochs(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    others, lines = write_folders(tmp_path / "others", identities=5, photos=2, first_photo=50), []
    changes: dict[str, Any] = {"epochs": 4, "verification": str(others), "verify_every": 2}
    plain = train(data, tmp_path / "plain", epochs=4)
    weights = train(data, tmp_path / "run", lines.append, **changes)
    assert difference(weights, plain) == 0, "verification changes nothing in training"
    assert [line.split("step ")[1].split()[0] for line in lines if "Verification" in line] == ["6", "12"]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [one.step for one in events.Scalars("auc/2")] == [6, 12]
    assert json.loads((tmp_path / "run" / "verification.json").read_text())["step"] == 12
    again: list[str] = []
    train(data, tmp_path / "run", again.append, **changes)
    assert not any("Verification" in line for line in again), "a finished run is not measured again"


@pytest.mark.slow
def test_processes_share_the_verification(data: Path, tmp_path: Path) -> None:
    others = str(write_folders(tmp_path / "others", identities=70, photos=2, first_photo=50))
    train(data, tmp_path / "alone", epochs=1, verification=others)
    answers = processes.run(processes.train, settings(data, tmp_path / "run", epochs=1, verification=others))
    assert processes.world_of(answers) == 2
    alone, shared = (
        json.loads((tmp_path / name / "verification.json").read_text())["depths"] for name in ("alone", "run")
    )
    assert [one["auc"] for one in shared] == pytest.approx([one["auc"] for one in alone], abs=0.01)
