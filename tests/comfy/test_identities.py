"""Identities as files, mixes, lists, batches and embeddings in a real ComfyUI."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder, FaceIdentity
from face2diffusion.f2d.checkpoint import read
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from support.graph import node
from support.inside import Inside
from support.official import write_mapper, write_msid
from support.reference_clip import relative_error
from support.server import ComfyServer, Result
from torch import Tensor
from transformers import CLIPTokenizer

Prompt = dict[str, Any]
PLACES = ("models", "face2diffusion", "identities")


@pytest.fixture
def people(pack: ComfyServer, graph: Prompt) -> Prompt:
    """The graph with a second person, the mirrored portrait, as node "other"."""
    if not (pack.input / "mirrored.png").exists():
        stream = io.BytesIO()
        ImageOps.mirror(Image.open(pack.input / "example.png")).save(stream, "PNG")
        pack.place(stream.getvalue(), "input", "mirrored.png")
    graph["photo 2"] = node("LoadImage", image="mirrored.png")
    graph["other"] = node("EncodeFaceIdentity", **{**graph["identity"]["inputs"], "image": ["photo 2", 0]})
    return graph


def words(pack: ComfyServer, graph: Prompt, identity: tuple[str, int]) -> Tensor:
    """The rows of S* that Inject S* puts into a prompt."""
    graph = {
        **graph,
        "inject": node("InjectSStar", **{**graph["inject"]["inputs"], "identity": list(identity)}),
    }
    graph["probe"] = node("F2DProbeSaveTokens", clip=["inject", 0], text="A photo of S*", name="words")
    result = pack.run(graph)
    assert result.status == "success", result.message
    return load_file(result.file("probe"))["vectors"]


def save(
    pack: ComfyServer, graph: Prompt, filename: str, identity: str = "identity", overwrite: bool = False
) -> Result:
    """Save an identity of the graph."""
    return pack.run(
        {
            **graph,
            "save": node("F2DSaveIdentity", identity=[identity, 0], filename=filename, overwrite=overwrite),
        }
    )


def saved(pack: ComfyServer, *name: str) -> Path:
    """Where an identity lies."""
    return pack.base.joinpath(*PLACES, *name)


# --- Files ---


def test_saved_and_loaded_identity_has_the_same_words_to_the_bit(pack: ComfyServer, graph: Prompt) -> None:
    result = save(pack, graph, "friends/alice")
    assert result.status == "success", result.message
    name = str(Path("friends", "alice.safetensors"))
    assert result.outputs["save"]["text"][0] == f"Saved as {name} in {saved(pack, 'friends')}"
    assert set(read(saved(pack, "friends", "alice.safetensors")).tensors) == {"v_id"}, "and no photo"
    assert name in pack.object_info("F2DLoadIdentity")["input"]["required"]["identity_file"][1]["options"]
    for slot in ("msid", "mapper"):
        assert not any(
            "alice" in file
            for file in pack.object_info("LoadFaceEncoder")["input"]["required"][slot][1]["options"]
        )
    loaded = {**graph, "load": node("F2DLoadIdentity", encoder=["encoder", 0], identity_file=name)}
    assert torch.equal(words(pack, loaded, ("load", 0)), words(pack, graph, ("identity", 0)))


def again(people: Prompt) -> Prompt:
    """The graph with the same people, which the server has not cached."""
    return {
        **people,
        "identity": node("EncodeFaceIdentity", **{**people["identity"]["inputs"], "min_score": 0.5}),
    }


def test_an_identity_with_a_taken_name_gets_a_number_and_the_first_one_lives_on(
    pack: ComfyServer, people: Prompt
) -> None:
    save(pack, people, "taken")
    first = FaceIdentity.load(saved(pack, "taken.safetensors"))
    same = save(pack, again(people), "taken")
    other = save(pack, people, "taken", "other")
    assert "save" not in same.cached and same.outputs["save"]["text"][0].startswith(
        "Saved as taken.safetensors in "
    )
    assert other.outputs["save"]["text"][0].startswith("Saved as taken_00002.safetensors in ")
    assert torch.equal(FaceIdentity.load(saved(pack, "taken.safetensors")).v_id, first.v_id)
    assert sorted(path.name for path in saved(pack).glob("taken*")) == [
        "taken.safetensors",
        "taken_00002.safetensors",
    ]
    save(pack, people, "taken", "other", overwrite=True)
    replaced, second = (
        FaceIdentity.load(saved(pack, name)).v_id for name in ("taken.safetensors", "taken_00002.safetensors")
    )
    assert torch.equal(replaced, second) and not torch.equal(replaced, first.v_id)


def test_a_replaced_file_is_read_again(pack: ComfyServer, people: Prompt) -> None:
    save(pack, people, "replaced")
    graph = {
        **people,
        "load": node("F2DLoadIdentity", encoder=["encoder", 0], identity_file="replaced.safetensors"),
    }
    before = words(pack, graph, ("load", 0))
    save(pack, people, "replaced", "other", overwrite=True)
    after = words(pack, graph, ("load", 0))
    assert not torch.allclose(before, after)
    assert torch.equal(after, words(pack, people, ("other", 0)))


BAD_NAMES = [
    "../alice",
    "..\\alice",
    "friends/../../alice",
    "/tmp/alice",
    "C:\\alice",
    "C:alice",
    "",
    " ",
    "/",
    "friends/",
    "friends//alice",
    ".",
    "alice.",
    "friends /alice",
    "CON",
    "com1.txt/alice",
    "nul.safetensors",
    "nul.SAFETENSORS",
    "CON .x",
    "CONIN$",
    "conout$.txt",
    "alice\ud800",
    'ali"ce',
    "alice?",
    "a\nlice",
    "x" * 250,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_or_that_some_system_cannot_store_are_refused(
    pack: ComfyServer, graph: Prompt, name: str
) -> None:
    before = sorted(pack.base.rglob("*.safetensors"))
    result = save(pack, graph, name)
    assert result.status == "invalid", "no node has run"
    assert "cannot be the name of a file" in result.message and "'friends/alice' work" in result.message
    assert sorted(pack.base.rglob("*.safetensors")) == before


def test_endings_may_be_in_capitals(pack: ComfyServer, graph: Prompt) -> None:
    save(pack, graph, "capitals.SafeTensors")
    saved(pack, "capitals.safetensors").rename(saved(pack, "CAPITALS.SAFETENSORS"))
    loaded = {
        **graph,
        "load": node("F2DLoadIdentity", encoder=["encoder", 0], identity_file="CAPITALS.SAFETENSORS"),
    }
    found = words(pack, loaded, ("load", 0))
    saved(pack, "CAPITALS.SAFETENSORS").unlink()
    assert torch.equal(found, words(pack, graph, ("identity", 0)))


def test_a_folder_that_cannot_be_written_to_is_named(pack: ComfyServer, graph: Prompt) -> None:
    pack.place(b"a file", *PLACES, "blocked")
    result = save(pack, graph, "blocked/alice")
    assert result.errors[0].node == "save"
    assert f"The folder '{saved(pack, 'blocked')}' cannot be written to" in result.message


def identity_file(
    pack: ComfyServer, name: str, tensors: dict[str, Tensor] | None = None, **metadata: str
) -> None:
    """Write an identity file with any metadata."""
    entries = {"f2d.kind": "identity", "version": "1", "msid": "f00dcafe99", "photos": "1", **metadata}
    saved(pack).mkdir(parents=True, exist_ok=True)
    save_file({"v_id": torch.zeros(1536)} if tensors is None else tensors, saved(pack, name), entries)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "did not make '{path}'; another one did (f00dcafe). Encode the photo again"),
        ({"msid_file": "mine.pt"}, "The encoder (msid.pt, "),
        ({"msid_file": "mine.pt"}, "did not make '{path}'; another one did (mine.pt, f00dcafe)"),
        ({"version": "3"}, "'{path}' has format 3, newer than this pack's 2. Update the pack."),
        ({"version": "two"}, "metadata of the identity '{path}' is damaged"),
        (
            {"f2d.kind": "words"},
            "'{path}' is not a saved identity: this is the words S* of one person",
        ),
    ],
    ids=[
        "another encoder",
        "named encoders",
        "another encoder of a known name",
        "a newer format",
        "a broken version",
        "another kind",
    ],
)
def test_identity_files_that_do_not_fit_are_refused(
    pack: ComfyServer, graph: Prompt, metadata: dict[str, str], message: str
) -> None:
    identity_file(pack, "bad.safetensors", **metadata)
    graph["load"] = node("F2DLoadIdentity", encoder=["encoder", 0], identity_file="bad.safetensors")
    graph["inject"]["inputs"]["identity"] = ["load", 0]
    graph["probe"] = node("F2DProbeSaveTokens", clip=["inject", 0], text="S*", name="bad")
    result = pack.run(graph)
    assert result.errors[0].node == "load", result.message
    assert message.format(path=saved(pack, "bad.safetensors")) in result.message


@pytest.mark.parametrize("name", ["gone.safetensors", "../msid.pt", "blocked"])
def test_files_that_are_no_identities_are_not_found(pack: ComfyServer, graph: Prompt, name: str) -> None:
    graph["load"] = node("F2DLoadIdentity", encoder=["encoder", 0], identity_file=name)
    result = save(pack, graph, "copy", "load")
    assert result.errors[0].node == "load", result.message
    assert name.removeprefix("../") in result.message
    assert not saved(pack, "copy.safetensors").exists()


def test_folders_of_extra_model_paths_are_listed_and_the_named_one_is_written_to(
    inside: Inside, tmp_path: Path
) -> None:
    for folder, name in (("models/face2diffusion", "own"), ("weights", "theirs")):
        identities = tmp_path / folder / "identities"
        identities.mkdir(parents=True)
        save_file({"v_id": torch.zeros(2)}, identities / f"{name}.safetensors")
        (identities.parent / f"msid-{name}.pt").write_bytes(b"weights")
    (tmp_path / "shared" / "team").mkdir(parents=True)
    save_file({"v_id": torch.zeros(2)}, tmp_path / "shared" / "team" / "bob.safetensors")
    weights, shared, models = (str(tmp_path / folder) for folder in ("weights", "shared", "models"))
    found = inside.run("folders", [weights, shared, models])
    assert sorted(found["identities"]) == ["own.safetensors", "team/bob.safetensors", "theirs.safetensors"]
    assert sorted(found["weights"]) == ["miniature (built in)", "msid-own.pt", "msid-theirs.pt"]
    assert Path(found["writes"]) == tmp_path / "shared" / "friends" / "alice.safetensors"
    found = inside.run("folders", [weights, None, models])
    assert (
        Path(found["writes"])
        == tmp_path / "models" / "face2diffusion" / "identities" / "friends" / "alice.safetensors"
    )
    hidden = tmp_path / "weights" / "identities" / "friends" / "alice.safetensors"
    hidden.parent.mkdir()
    save_file({"v_id": torch.zeros(2)}, hidden)
    found = inside.run("folders", [weights, shared, models])
    assert Path(found["writes"]) == tmp_path / "shared" / "friends" / "alice_00002.safetensors", (
        "the first would hide the one in weights"
    )


# --- Mixes ---


def mixed(people: Prompt, **inputs: Any) -> Prompt:
    """The graph with a mix of both people."""
    values = {
        "identity_1": ["identity", 0],
        "identity_2": ["other", 0],
        "weight_1": 1.0,
        "weight_2": 1.0,
        "interpolation": "spherical",
        **inputs,
    }
    return {**people, "mix": node("F2DMixIdentities", **values)}


def test_mix_with_the_weights_one_and_zero_is_the_first_person(pack: ComfyServer, people: Prompt) -> None:
    for interpolation in ("spherical", "linear"):
        graph = mixed(people, weight_2=0.0, interpolation=interpolation)
        assert torch.equal(words(pack, graph, ("mix", 0)), words(pack, people, ("identity", 0)))


def test_mix_has_the_encoder_of_the_first_person_with_a_weight(
    pack: ComfyServer, people: Prompt, tmp_path: Path
) -> None:
    """Two mappers may have been trained with one MSID file."""
    pack.place(write_mapper(tmp_path / "mapping2.pt", seed=78), "models", "face2diffusion", "mapping2.pt")
    people["encoder 2"] = node("LoadFaceEncoder", **{**people["encoder"]["inputs"], "mapper": "mapping2.pt"})
    people["other"]["inputs"]["encoder"] = ["encoder 2", 0]
    expected = words(pack, people, ("other", 0))
    assert torch.equal(words(pack, mixed(people, weight_1=0.0), ("mix", 0)), expected)
    people["other"]["inputs"]["encoder"] = ["encoder", 0]
    assert not torch.equal(words(pack, people, ("other", 0)), expected), "else the mappers are alike"


def test_mix_of_three_is_that_of_the_library(pack: ComfyServer, people: Prompt, files) -> None:
    save(pack, people, "one")
    save(pack, people, "two", "other")
    graph = mixed(people, weight_1=0.5, identity_5=["other", 0], weight_5=0.3)
    save(pack, graph, "three", "mix")
    encoder = FaceEncoder.load(files.msid, files.mapper)
    one, two, three = (
        encoder.load_identity(saved(pack, f"{name}.safetensors")) for name in ("one", "two", "three")
    )
    torch.testing.assert_close(three.v_id, encoder.mix([one, two, two], (0.5, 1.0, 0.3)).v_id)
    assert three.photos == 3


BAD_MIXES = {
    "all weights zero": (
        {"weight_1": 0.0, "weight_2": 0.0},
        "The mix weights 0, 0 do not add up to more than 0",
    ),
    "a negative sum": (
        {"weight_1": -1.0, "weight_2": 0.5, "interpolation": "linear"},
        "The mix weights -1, 0.5 do not add up to more than 0",
    ),
    "a negative weight on the sphere": ({"weight_2": -0.5}, "A spherical mix takes no weights below 0"),
    "a weight out of range": ({"weight_1": 99.0}, "99"),
    "not a number": ({"weight_1": "NaN"}, "nan"),
    "an unknown interpolation": ({"interpolation": "cubic"}, "cubic"),
}


@pytest.mark.parametrize("name", BAD_MIXES)
def test_senseless_mixes_end_in_a_clear_error(pack: ComfyServer, people: Prompt, name: str) -> None:
    inputs, message = BAD_MIXES[name]
    result = save(pack, mixed(people, **inputs), "nonsense", "mix")
    assert result.errors[0].node == "mix", result.message
    assert message in result.message.lower() if message == "nan" else message in result.message
    assert not saved(pack, "nonsense.safetensors").exists()


def test_identities_of_two_encoders_are_not_mixed(pack: ComfyServer, people: Prompt, tmp_path: Path) -> None:
    pack.place(write_msid(tmp_path / "msid2.pt", seed=77), "models", "face2diffusion", "msid2.pt")
    people["encoder 2"] = node("LoadFaceEncoder", **{**people["encoder"]["inputs"], "msid": "msid2.pt"})
    people["other"]["inputs"]["encoder"] = ["encoder 2", 0]
    graph = mixed(people, identity_2=["identity", 0], identity_5=["other", 0], weight_5=1.0)
    result = save(pack, graph, "nonsense", "mix")
    assert result.errors[0].node == "mix"
    assert re.search(
        r"identity_1 .*\(msid\.pt, \w{8}\) and identity_5 .*\(msid2\.pt, \w{8}\)",
        result.message,
    )


# --- Several people, a picture each ---


def drawn(
    pack: ComfyServer,
    graph: Prompt,
    conditioning: tuple[str, int],
    latent: dict[str, Any],
    sink: dict[str, Any],
) -> Result:
    """Two steps of Euler with a prompt."""
    graph = {
        **graph,
        "negative": node("CLIPTextEncode", clip=["model", 1], text=""),
        "latent": latent,
        "sampler": node(
            "KSampler",
            model=["model", 0],
            positive=list(conditioning),
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=3,
            steps=2,
            cfg=7.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "sink": sink,
    }
    result = pack.run(graph)
    assert result.status == "success", result.message
    return result


LATENTS = node("F2DProbeSaveTensors", latent=["sampler", 0], name="latents")
EMPTY = {"width": 64, "height": 64}


def listed(people: Prompt) -> Prompt:
    """The graph with S* as a list of both people, in one prompt."""
    people["list"] = node("F2DListIdentities", identity_1=["identity", 0], identity_2=["other", 0])
    people["inject"]["inputs"]["identity"] = ["list", 0]
    people["text"] = node("CLIPTextEncode", clip=["inject", 0], text="A photo of S* as a chef")
    return people


def alone(people: Prompt, identity: str) -> Prompt:
    """The graph with one of the people in the prompt."""
    inject = node("InjectSStar", **{**people["inject"]["inputs"], "identity": [identity, 0]})
    return {**people, "inject": inject}


def test_picture_i_of_a_batch_is_the_one_of_person_i_alone(pack: ComfyServer, people: Prompt) -> None:
    graph = listed(people)
    graph["batch"] = node("F2DBatchConditioning", conditioning=["text", 0])
    batch = drawn(
        pack, graph, ("batch", 0), node("EmptyLatentImage", **EMPTY, batch_size=["batch", 1]), LATENTS
    )
    together = load_file(batch.file("sink"))["latent"]
    assert together.shape == (2, 4, 8, 8)
    for index, identity in enumerate(("identity", "other")):
        single = alone(people, identity)
        single["two"] = node("EmptyLatentImage", **EMPTY, batch_size=2)
        latent = node("LatentFromBatch", samples=["two", 0], batch_index=index, length=1)
        found = load_file(drawn(pack, single, ("text", 0), latent, LATENTS).file("sink"))["latent"]
        assert relative_error(together[index], found[0]) < 1e-4
    same_noise = alone(people, "other")
    same_noise["two"] = node("EmptyLatentImage", **EMPTY, batch_size=2)
    latent = node("LatentFromBatch", samples=["two", 0], batch_index=0, length=1)
    found = load_file(drawn(pack, same_noise, ("text", 0), latent, LATENTS).file("sink"))["latent"]
    assert relative_error(together[0], found[0]) > 1e-3, "this test could not see another person"


def test_a_list_of_people_gives_a_picture_each(pack: ComfyServer, people: Prompt) -> None:
    pictures = node("SaveImage", images=["decode", 0], filename_prefix="people")
    result = drawn(
        pack, listed(people), ("text", 0), node("EmptyLatentImage", **EMPTY, batch_size=1), pictures
    )
    found = [np.asarray(Image.open(file)) for file in result.files["sink"]]
    assert len(found) == 2
    for identity, picture in zip(("identity", "other"), found, strict=True):
        single = drawn(
            pack,
            alone(people, identity),
            ("text", 0),
            node("EmptyLatentImage", **EMPTY, batch_size=1),
            pictures,
        )
        assert np.array_equal(picture, np.asarray(Image.open(single.file("sink"))))


def test_delayed_subject_conditioning_has_both_its_parts_in_a_batch(
    pack: ComfyServer, people: Prompt
) -> None:
    graph = listed(people)
    values = {
        "clip": ["inject", 0],
        "prompt": "S* as a chef",
        "negative_prompt": "",
        "class_words": "a person",
        "subject_from": 0.2,
    }
    graph["text"] = node("F2DConditioning", **values)
    graph["batch"] = node("F2DBatchConditioning", conditioning=["text", 0])
    graph["probe"] = node("F2DProbeSaveConditioning", conditioning=["batch", 0], name="batch")
    found = load_file(pack.run(graph).file("probe"))
    assert found["0.cond"].shape == found["1.cond"].shape == (2, 77, 768)
    assert torch.equal(found["0.cond"][0], found["0.cond"][1]), "the class prompt names no one"
    assert not torch.allclose(found["1.cond"][0], found["1.cond"][1])


def test_lists_of_lists_are_one_list(pack: ComfyServer, people: Prompt) -> None:
    graph = listed(people)
    graph["list 2"] = node("F2DListIdentities", identity_1=["list", 0], identity_3=["identity", 0])
    graph["inject"]["inputs"]["identity"] = ["list 2", 0]
    graph["batch"] = node("F2DBatchConditioning", conditioning=["text", 0])
    graph["probe"] = node("F2DProbeSaveConditioning", conditioning=["batch", 0], name="lists")
    found = load_file(pack.run(graph).file("probe"))["0.cond"]
    assert len(found) == 3 and torch.equal(found[0], found[2])


def test_prompts_of_different_lengths_are_not_batched(pack: ComfyServer, people: Prompt) -> None:
    graph = listed(people)
    graph["inject 2"] = alone(people, "other")["inject"]
    graph["inject"] = alone(people, "identity")["inject"]
    graph["long"] = node("CLIPTextEncode", clip=["inject 2", 0], text="S* " + "a " * 90)
    graph["list of texts"] = node("F2DProbeList", conditioning_1=["text", 0], conditioning_2=["long", 0])
    graph["batch"] = node("F2DBatchConditioning", conditioning=["list of texts", 0])
    graph["probe"] = node("F2DProbeSaveConditioning", conditioning=["batch", 0], name="lengths")
    result = pack.run(graph)
    assert result.errors[0].node == "batch", result.message
    assert "The prompts differ in length: 77 and 154 tokens" in result.message


# --- Export ---


def conditioning(pack: ComfyServer, graph: Prompt, clip: tuple[str, int], text: Any) -> Tensor:
    """Encode a prompt."""
    graph = {**graph, "text": node("CLIPTextEncode", clip=list(clip), text=text)}
    result = pack.run(
        {**graph, "probe": node("F2DProbeSaveConditioning", conditioning=["text", 0], name="export")}
    )
    assert result.status == "success", result.message
    return load_file(result.file("probe"))["0.cond"]


def exported(graph: Prompt, filename: str, **inputs: Any) -> Prompt:
    """The graph with Export Embedding."""
    values = {
        "identity": ["identity", 0],
        "clip": ["model", 1],
        "filename": filename,
        "place": 4,
        "overwrite": False,
        **inputs,
    }
    return {**graph, "export": node("F2DExportEmbedding", **values)}


def test_exported_embedding_is_s_star_at_its_place(pack: ComfyServer, graph: Prompt) -> None:
    result = pack.run(exported(graph, "people/f2d_alice"))
    assert result.status == "success", result.message
    assert result.outputs["export"]["text"][0].startswith("Saved as embedding:people/f2d_alice in ")
    assert list(load_file(pack.base / "models" / "embeddings" / "people" / "f2d_alice.safetensors")) == [
        "f2d_alice"
    ]
    text = "A photo of {} as a chef"
    found = conditioning(pack, graph, ("model", 1), text.format("embedding:people/f2d_alice"))
    exact = conditioning(pack, graph, ("inject", 0), text.format("S*"))
    assert relative_error(found, exact) < 1e-5
    elsewhere = conditioning(
        pack, graph, ("model", 1), "A cat and embedding:people/f2d_alice in paris, a photo"
    )
    assert (
        relative_error(elsewhere, conditioning(pack, graph, ("inject", 0), "A cat and S* in paris, a photo"))
        < 1e-5
    ), "place 4 too"
    moved = conditioning(pack, graph, ("model", 1), "embedding:people/f2d_alice as a chef")
    assert relative_error(moved, conditioning(pack, graph, ("inject", 0), "S* as a chef")) > 1e-3


@pytest.mark.parametrize(("name", "taken"), [("alice", True), ("friends/Emma", True), ("f2d_alice", False)])
def test_a_name_in_clips_vocabulary_is_saved_with_a_warning(
    pack: ComfyServer, graph: Prompt, name: str, taken: bool
) -> None:
    """diffusers refuses such a name as token."""
    tokenizer = CLIPTokenizer.from_pretrained(pack.checkout / "comfy" / "sd1_tokenizer")
    stem = name.rpartition("/")[2]
    assert (f"{stem.lower()}</w>" in tokenizer.get_vocab()) == taken
    (text,) = pack.run(exported(graph, name)).outputs["export"]["text"]
    assert re.match(rf"Saved as embedding:{name}(_\d{{5}})? in ", text)
    assert (f"CLIP has a token '{stem}'" in text and f"token='<{stem}>'" in text) == taken


def test_the_word_can_be_wired_into_a_prompt_and_a_clip_that_knows_s_star_exports_the_same(
    pack: ComfyServer, graph: Prompt
) -> None:
    graph = exported(graph, "wired", clip=["inject", 0], place=1)
    graph["join"] = node("StringConcatenate", string_a=["export", 0], string_b="as a chef", delimiter=" ")
    found = conditioning(pack, graph, ("model", 1), ["join", 0])
    assert relative_error(found, conditioning(pack, graph, ("inject", 0), "S* as a chef")) < 1e-5


def test_an_embedding_with_a_taken_name_gets_a_number(pack: ComfyServer, people: Prompt) -> None:
    pack.run(exported(people, "taken"))
    same = pack.run(exported(again(people), "taken"))
    other = pack.run(exported(people, "taken", identity=["other", 0]))
    assert same.outputs["export"]["text"][0].startswith("Saved as embedding:taken in ")
    assert other.outputs["export"]["text"][0].startswith("Saved as embedding:taken_00002 in ")


@pytest.mark.parametrize("taken", ["hidden.pt", "hidden.bin", "people/hidden.safetensors"])
def test_an_embedding_hides_no_other_of_the_name(pack: ComfyServer, graph: Prompt, taken: str) -> None:
    """ComfyUI looks for `embedding:name` under several endings, and in subfolders too."""
    place = pack.place(b"someone else's", "models", "embeddings", *taken.split("/"))
    result = pack.run(exported(graph, "hidden"))
    place.unlink()
    assert result.outputs["export"]["text"][0].startswith("Saved as embedding:hidden_00002 in ")
    assert not (pack.base / "models" / "embeddings" / "hidden.safetensors").exists()


def test_an_embedding_and_a_placeholder_may_have_one_name(pack: ComfyServer, people: Prompt) -> None:
    pack.run(exported(people, "drawn/alice", identity=["other", 0]))
    named = {
        **people,
        "inject": node("InjectSStar", **{**people["inject"]["inputs"], "placeholder": "alice"}),
    }
    for text in (
        "A photo of {}, with embedding:drawn/alice",
        "(embedding:drawn/alice:1.2) and ({}:1.1)",
        "embedding:drawn/alice, {}",
    ):
        found = conditioning(pack, named, ("inject", 0), text.format("alice"))
        assert torch.equal(found, conditioning(pack, people, ("inject", 0), text.format("S*")))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"filename": "my friend"},
            "The name 'my friend' cannot be used in a prompt",
        ),
        ({"filename": "../alice"}, "'../alice' cannot be the name of a file"),
        ({"filename": "(alice)"}, "cannot be used in a prompt"),
        ({"filename": "friends/__metadata__"}, "named '__metadata__'"),
        ({"place": 75}, "75"),
        ({"place": 0}, "0"),
    ],
)
def test_exports_that_no_prompt_could_use_are_refused(
    pack: ComfyServer, graph: Prompt, inputs: dict[str, Any], message: str
) -> None:
    result = pack.run(exported(graph, **{"filename": "bad", **inputs}))
    assert result.errors[0].node == "export", result.message
    assert message in result.message
    assert not (pack.base / "models" / "embeddings" / "bad.safetensors").exists()


def test_a_mapper_for_another_base_model_is_refused(pack: ComfyServer, graph: Prompt) -> None:
    graph["encoder"]["inputs"]["mapper"] = "wide.pt"
    result = pack.run(exported(graph, "bad"))
    assert "This is an SD1 CLIP 768 wide; the mapper's words are 1024 wide" in result.message
