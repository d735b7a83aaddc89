"""The per-person methods on the miniature: what each trains, what stays, and what a rerun skips."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d.files import fingerprint
from face2diffusion.training.cli import main
from face2diffusion.training.config import MINIATURE_SMALL, MapperTrainingConfig, MiniatureConfig
from face2diffusion.training.engine.fit import FitConfig, fit
from face2diffusion.training.miniature.baselines import baselines_report, dream_identity
from face2diffusion.training.miniature.baselines import bench as bench_module
from face2diffusion.training.miniature.baselines import optimize as optimize_module
from face2diffusion.training.miniature.baselines.baselines_report import write_baselines_report
from face2diffusion.training.miniature.baselines.bench import MAPPERS, Bench
from face2diffusion.training.miniature.baselines.key_locking import mark_words
from face2diffusion.training.miniature.baselines.measured_rows import Measured, rank_rows, subtract
from face2diffusion.training.miniature.baselines.methods import METHODS, choose_methods
from face2diffusion.training.miniature.baselines.optimize import optimize
from face2diffusion.training.miniature.baselines.outcome import Outcome
from face2diffusion.training.miniature.baselines.personal_model import PersonalModel
from face2diffusion.training.miniature.baselines.stopping_rule import VarianceRule
from face2diffusion.training.miniature.baselines.tune import PEOPLE, read_trials
from face2diffusion.training.miniature.recipe import Miniature
from face2diffusion.training.miniature.study import measure
from face2diffusion.training.miniature.study.averages import HMEAN
from face2diffusion.training.miniature.study.held_out_data import TUNING_PLACES, held_out_person
from face2diffusion.training.miniature.study.scores import Score


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "TUNING_PLACES", TUNING_PLACES[-2:])  # rendering 40 people takes seconds
        yield Bench(range(2), [0], bf16=False, log=lambda message: None)


def train(bench: Bench, name: str, out: Path, steps: int = 2) -> PersonalModel:
    model = PersonalModel(bench.base, replace(METHODS[name], steps=steps, batch_size=2))
    bench.optimize(model, 0, 0, str(out))
    return model


def changed(bench: Bench, model: PersonalModel) -> set[str]:
    before = bench.base.unet.state_dict()
    return {name for name, value in model.unet.state_dict().items() if not torch.equal(value, before[name])}


def changed_rows(bench: Bench, model: PersonalModel) -> list[bool]:
    first = PersonalModel(bench.base, model.method).rows
    return [not torch.equal(row, start) for row, start in zip(model.rows, first, strict=True)]


def test_textual_inversion_trains_two_words_alone(bench, tmp_path):
    before = fingerprint(bench.base.state_dict())
    model = train(bench, "textual-inversion", tmp_path)
    assert changed(bench, model) == set()
    assert changed_rows(bench, model) == [True, True]
    assert model.parameters == 2 * 192
    assert fingerprint(bench.base.state_dict()) == before


def test_custom_diffusion_trains_keys_values_and_one_word(bench, tmp_path):
    model = train(bench, "custom-diffusion", tmp_path)
    names = changed(bench, model)
    assert len(names) == 8
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in names)
    assert changed_rows(bench, model) == [True, False]


def test_dreambooth_trains_the_unet_and_leaves_the_base(bench, tmp_path):
    before = fingerprint(bench.base.state_dict())
    model = train(bench, "dreambooth", tmp_path)
    assert changed(bench, model) == set(bench.base.unet.state_dict())
    assert changed_rows(bench, model) == [False, False]
    assert fingerprint(bench.base.state_dict()) == before
    assert changed(bench, PersonalModel(bench.base, METHODS["dreambooth"])) == set()


def test_oft_rotates_attention_weights(bench, tmp_path):
    pytest.importorskip("peft", reason='OFT needs peft. Run `pip install "face2diffusion[train]"`.')
    model = train(bench, "oft", tmp_path)
    layer = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    plain = bench.base.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    torch.testing.assert_close(layer.base_layer.weight, plain, rtol=0, atol=0)
    rotated = layer(torch.eye(plain.shape[1])).T
    assert not torch.allclose(rotated, plain, atol=1e-5)
    torch.testing.assert_close(rotated.norm(dim=1), plain.norm(dim=1), rtol=1e-3, atol=1e-4)


def test_locked_keys_do_not_depend_on_the_words(bench):
    model = PersonalModel(bench.base, METHODS["perfusion"])
    attention = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    plain = bench.base.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    states = model.encode()
    keys, values = attention.to_k(states), attention.to_v(states)
    torch.testing.assert_close(keys, plain.to_k(bench.base.class_states))
    for row in model.rows:
        row.data += 1
    attention.to_v.edit.data += 1
    states = model.encode()
    assert torch.equal(attention.to_k(states), keys)
    assert not torch.allclose(attention.to_v(states), values)


def test_the_edit_of_values_reaches_the_words_alone(bench):
    model = PersonalModel(bench.base, METHODS["perfusion"])
    value = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    before = value(model.encode())
    value.edit.data += 1
    difference = (value(model.encode()) - before)[0].abs().sum(1)
    assert difference.nonzero().flatten().tolist() == [4, 5]  # start, a, photo, of, S*


def test_marks_follow_the_prompt(bench):
    marks = mark_words(bench.base.prompts, "S* as a chef")
    assert marks[1:3].tolist() == [[1, 0], [0, 1]]
    assert marks.sum() == 2
    assert mark_words(bench.base.prompts, "").sum() == 0


def test_a_new_key_locked_pipeline_generates_a_person(bench):
    model = PersonalModel(bench.base, METHODS["perfusion"])
    personal = model.build_pipeline(bench.models.pipeline)
    states = personal.encode("a photo of S* as a chef")[..., :-2]
    class_states, subject_states = states.chunk(2, dim=-1)
    torch.testing.assert_close(class_states, subject_states)  # S* starts as "a person"
    torch.testing.assert_close(class_states, bench.models.pipeline.encode("a photo of a person as a chef"))


def test_the_prior_shows_other_people_as_a_person(bench, monkeypatch):
    seen = []
    loss = PersonalModel.denoising_loss
    monkeypatch.setattr(
        PersonalModel, "denoising_loss", lambda model, *batch: seen.append(batch) or loss(model, *batch)
    )
    photo, others = torch.zeros(1, 4, 16, 16), torch.ones(3, 4, 16, 16)
    for name in ("dreambooth", "textual-inversion"):
        model = PersonalModel(bench.base, replace(METHODS[name], batch_size=4))
        optimize_module._training_loss(model, photo, others)
    (latents, _, _, states), (alone, *_) = seen
    assert latents[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(states[2:], bench.base.class_states.expand(2, -1, -1))
    assert not torch.allclose(states[0], states[2])
    assert alone[:, 0, 0, 0].tolist() == [0, 0, 0, 0]


def test_the_prior_is_other_people_of_the_tuning_split(bench):
    assert len(bench.others(0)) == 2
    same = Bench(TUNING_PLACES[-1:], [0])
    torch.testing.assert_close(same.others(0), bench.others(0)[:1])
    reported = {held_out_person(place) for place in range(24)}
    assert not reported & {held_out_person(place) for place in TUNING_PLACES}
    assert set(PEOPLE) <= set(TUNING_PLACES)


def test_the_variance_rule_stops_when_the_loss_is_flat():
    losses = iter([8.0, 4.0, 2.0, 1.0, 1.01, 1.0, 1.01])
    rule = VarianceRule(lambda: next(losses), every=5, window=3, threshold=0.15)
    assert [step for step in range(1, 31) if rule(step)] == [25, 30]
    falling = VarianceRule(lambda: -float(len(falling.losses)), every=1, window=3, threshold=0.15)
    assert not any(falling(step) for step in range(1, 6))


def test_the_rule_ends_the_training(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(
        VarianceRule, "__call__", lambda rule, step: setattr(rule, "stopped_at", step) or step == 1
    )
    model = PersonalModel(bench.base, replace(METHODS["dvar"], steps=5))
    assert bench.optimize(model, 0, 0, str(tmp_path)) == 1
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 1


def test_a_fit_that_stops_early_is_finished(tmp_path):
    network = torch.nn.Linear(1, 1)
    config = FitConfig(out=str(tmp_path), steps=9, precision="no", device="cpu", report_to=())
    steps: list[int] = []

    def stop_early(step: int) -> bool:
        steps.append(step)
        return step == 3

    fit(network, lambda step: network(torch.ones(1, 1)).sum(), config, lambda message: None, stop_early)
    assert steps == [1, 2, 3]


def outcome(who: int, identity: float) -> Outcome:
    cosines = tuple(identity if other == who else 0.0 for other in range(3))
    return Outcome([Score("prompt", who, 0, 7, cosines, 1.0, True)], 10, 5, 2.0)


def test_a_rerun_reads_what_is_finished(bench, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(
        Bench, "_train", lambda bench, method, who, *rest: runs.append(who) or outcome(who, 0.5)
    )
    method, file = METHODS["dreambooth"], tmp_path / "0-0.json"
    first = bench.measure(method, 0, 0, file)
    assert bench.measure(method, 0, 0, file) == first
    assert runs == [0]
    bench.measure(replace(method, lr=1.0), 0, 0, file)
    assert runs == [0, 0], "other settings"


def test_ranks_need_paired_differences():
    def measured(name: str, values: list[float]) -> Measured:
        return Measured(METHODS[name], {(0, who): outcome(who, value) for who, value in enumerate(values)})

    good = measured("oft", [0.8, 0.7, 0.6])
    near, poor = measured("dvar", [0.75, 0.73, 0.6]), measured("perfusion", [0.4, 0.31, 0.2])
    assert rank_rows([good, near, poor], HMEAN) == {"oft": 1, "dvar": 1, "perfusion": 3}
    assert subtract(good, poor, lambda score: score.identity).value == pytest.approx(0.39667, abs=1e-4)


def test_the_page_has_all_methods(tmp_path, monkeypatch):
    def score(bench, pipeline, who, seed, file, subject_from=0.0):
        bench_module._save_shown(file, bench_module.PlannedImage("prompt", who, 0, 0, None, "", None, None),
                                 bench.photos[who])  # fmt: skip
        return [Score("prompt", who, 0, 0, (0.5, 0.5), 1.0, True)]

    monkeypatch.setattr(Bench, "score", score)
    monkeypatch.setattr(bench_module, "optimize", lambda model, *rest: model.method.steps)
    config = MiniatureConfig(
        out=str(tmp_path), report_people=2, report_prompts=1, baselines=("dvar", "perfusion")
    )
    page = write_baselines_report(config, lambda message: None).read_text(encoding="utf-8")
    assert not (tmp_path / "dream-identity").exists(), "it was not asked for"
    for title in ("DVAR", "Perfusion's key locking", *(mapper.title for mapper in MAPPERS)):
        assert f"| {title} | 0.500" in page
    assert "| Perfusion's key locking | 1,664 | " in page
    assert "the first 1 of the 40 prompts" in page
    assert (tmp_path / "baselines.jpg").stat().st_size < 300_000
    assert len(list(tmp_path.glob("outcomes/perfusion/*.json"))) == 4, "two people, two seeds"


@pytest.fixture
def named_people(bench, monkeypatch) -> dream_identity.NamedPeople:
    """Two of the names in one scene, after two denoising steps."""
    monkeypatch.setattr(measure, "SETTINGS", replace(measure.SETTINGS, steps=2))
    monkeypatch.setattr(dream_identity, "NAMES", dream_identity.NAMES[:2])
    monkeypatch.setattr(dream_identity, "CONTEXTS", ("as a chef",))
    return dream_identity.generate_named_people(bench.models, dream_identity.NAMES, ("as a chef",), False)


def test_named_people_are_portraits_and_scenes_of_the_same_names(bench, named_people, monkeypatch):
    asked = []
    generate = dream_identity.generate_images
    monkeypatch.setattr(
        dream_identity,
        "generate_images",
        lambda models, images, **rest: asked.extend(images) or generate(models, images, **rest),
    )
    again = dream_identity.generate_named_people(bench.models, dream_identity.NAMES, ("as a chef",), False)
    assert [planned.text for planned in asked] == [
        "a photo of anna smith", "a photo of anna smith", "a photo of anna smith as a chef",
        "a photo of emma jones", "a photo of emma jones", "a photo of emma jones as a chef",
    ]  # fmt: skip
    assert len({planned.seed for planned in asked}) == 6
    assert again.v_id.shape == (2, 2, 512) and again.latents.shape == (2, 1, 4, 16, 16)
    assert torch.equal(again.latents, named_people.latents) and torch.equal(again.v_id, named_people.v_id)


class Photos:
    """A cache of five photos, whose features and latents say which of them it is."""

    def __len__(self) -> int:
        return 5

    def load(self, index: int, flip: bool) -> dict[str, torch.Tensor]:
        own = torch.full((1, 1, 1), -1.0 - index)
        return {
            "latent_mean": own,
            "latent_std": torch.zeros(1, 1, 1),
            "v_id": own[0, 0],
            "mask": torch.ones(1, 1),
        }


def test_every_second_sample_is_a_named_person_in_a_scene():
    people = dream_identity.NamedPeople(
        v_id=torch.arange(6.0).reshape(3, 2, 1), latents=torch.arange(12.0).reshape(3, 4, 1, 1, 1)
    )
    config = MapperTrainingConfig(loss="reconstruction", expression_guidance=False, flip=False)
    dataset = dream_identity.SelfAugmentedDataset(Photos(), config, 1000, people)
    first, named = [dataset[number] for number in range(0, 10, 2)], [dataset[n] for n in range(1, 400, 2)]
    assert sorted(int(sample["v_id"]) for sample in first) == [-5, -4, -3, -2, -1], "all photos in turn"
    assert all(sample["latent"].item() == sample["v_id"].item() for sample in first)
    assert {int(sample["context"]) for sample in first} == {0}
    for sample in named:
        who, scene = divmod(int(sample["latent"]), 4)
        assert int(sample["v_id"]) // 2 == who and int(sample["context"]) == 1 + scene
    assert len({(int(sample["latent"]), int(sample["v_id"])) for sample in named}) == 24, "all combinations"
    assert len({float(sample["time"]) for sample in named}) > 100
    again = dataset[7]
    assert all(torch.equal(again[name], value) for name, value in dataset[7].items())


def test_dream_identity_is_trained_once_and_measured(bench, named_people, tmp_path):
    config = MiniatureConfig(out=str(tmp_path), **{**MINIATURE_SMALL, "photos": 4})
    miniature = Miniature(config, lambda message: None)
    models = dream_identity.load_dream_identity(miniature, bench.models)
    mapper = models.encoder.mapper.config
    assert (mapper.exp_dim, mapper.word_dim) == (0, 192)
    assert models.pipeline is bench.models.pipeline
    saved = dream_identity.load_file(tmp_path / "named-people.safetensors")
    assert torch.equal(saved["latents"], named_people.latents)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    row = bench_module.Mapper(dream_identity.NAME, dream_identity.TITLE, models=models)
    found = bench.measure(row, 0, 0, tmp_path / "0-0.json")
    assert len(found.scores) == 1 and found.steps == 0
    other = dream_identity.load_dream_identity(Miniature(config, lambda message: None), bench.models)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = bench_module.Mapper(dream_identity.NAME, dream_identity.TITLE, models=other)
    assert again.settings == row.settings != bench_module.Mapper("f2d", "Face2Diffusion").settings


def test_trials_are_read_in_order(tmp_path):
    entry = {"method": "oft", "lr": 1e-3, "steps": 100, "identity": 0.1, "text": 0.2, "hmean": 0.3}
    (tmp_path / "oft-0.001.json").write_text(json.dumps([entry]))
    (trial,) = read_trials(tmp_path)
    assert (trial.lr, trial.hmean) == (1e-3, 0.3)


def test_the_page_names_its_prompts():
    name = baselines_report._name_prompts
    assert name(range(40)) == "all 40 prompts"
    assert name(range(0, 40, 2)) == "every second of the 40 prompts (20)"
    assert name(range(0, 40, 4)) == "every 4th of the 40 prompts (10)"
    assert name(range(5)) == "the first 5 of the 40 prompts"


def test_an_unknown_method_is_refused(tmp_path, capsys):
    assert [method.name for method in choose_methods(["oft"])] == ["oft"]
    assert [method.name for method in choose_methods(["oft", "mapper"], others=("mapper",))] == ["oft"]
    for name in ("lora", "dream-identity"):
        assert main(["miniature", "tune", "--out", str(tmp_path), "--baselines", name]) == 2
        assert name in capsys.readouterr().err


def test_missing_peft_is_named(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install"):
        PersonalModel(bench.base, METHODS["oft"])


def test_the_noise_of_a_seed_is_its_own(bench, tmp_path):
    first, again = (train(bench, "textual-inversion", tmp_path / name) for name in ("a", "b"))
    model = PersonalModel(bench.base, first.method)
    optimize(model, bench._latents[:1], bench.others(0), tmp_path / "c", seed=1, bf16=False)
    assert torch.equal(first.rows[0], again.rows[0])
    assert not torch.equal(first.rows[0], model.rows[0])
