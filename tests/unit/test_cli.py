"""The command line: what it writes, and that bad input ends with status 2 and one clear line."""

import io
import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d import FaceEncoder, cli
from face2diffusion.f2d.checkpoint import save
from face2diffusion.f2d.cli import _parser, main
from face2diffusion.f2d.options import FaceChoice
from face2diffusion.training import cli as training_cli
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from skimage.data import astronaut
from support.random_pipeline import random_pipeline

LANDMARKS = "200.1,101.8 247.1,102.6 220.4,124.5 198.6,142.8 239.7,143.6"
POINTS = [tuple(float(number) for number in pair.split(",")) for pair in LANDMARKS.split()]


@pytest.fixture(scope="module")
def files(official, tmp_path_factory):
    """The folder `official` with a small Stable Diffusion in diffusers layout."""
    folder = tmp_path_factory.mktemp("cli")
    for path in official.iterdir():
        os.link(path, folder / path.name)
    random_pipeline().diffusion.save_pretrained(folder / "sd")
    return folder


@pytest.fixture
def encode(files):
    """The arguments of `f2d encode`, up to the detection."""
    return [
        "encode",
        str(files / "photo.png"),
        "--msid",
        str(files / "msid.pt"),
        "--mapper",
        str(files / "mapping.pt"),
        "--device",
        "cpu",
    ]


def test_encode_writes_what_the_library_computes(files, encode, tmp_path):
    out, features, identity = (
        str(tmp_path / name) for name in ("s.safetensors", "f.safetensors", "i.safetensors")
    )
    assert (
        main(
            [*encode, "--landmarks", LANDMARKS, "--out", out, "--features", features, "--identity", identity]
        )
        == 0
    )
    encoder = FaceEncoder.load(files / "msid.pt", files / "mapping.pt")
    expected = encoder.identify(astronaut(), landmarks=POINTS)
    assert torch.equal(load_file(out)["words"], encoder.words(expected))
    stored = load_file(features)
    assert stored["face"].shape == (112, 112, 3)
    assert stored["face"].dtype == torch.uint8
    assert torch.equal(stored["v_id"], expected.v_id)
    assert torch.equal(encoder.load_identity(identity).v_id, expected.v_id)


def test_landmarks_with_swapped_eyes_are_mended_with_a_warning_and_no_face_is_refused(
    encode, tmp_path, capsys, caplog
):
    points = LANDMARKS.split()
    words = {}
    for name, order in {"right": [0, 1, 2, 3, 4], "swapped": [1, 0, 2, 3, 4]}.items():
        out = str(tmp_path / f"{name}.safetensors")
        assert main([*encode, "--landmarks", " ".join(points[i] for i in order), "--out", out]) == 0
        words[name] = load_file(out)["words"]
    assert torch.equal(words["swapped"], words["right"])
    assert "the eyes were swapped" in caplog.text
    nose_first = " ".join(points[i] for i in (2, 3, 0, 4, 1))
    assert main([*encode, "--landmarks", nose_first, "--out", str(tmp_path / "no.safetensors")]) == 2
    assert "not those of a face" in capsys.readouterr().err
    assert not (tmp_path / "no.safetensors").exists()


def test_encode_takes_an_aligned_face_and_an_expression(files, encode, tmp_path):
    encoder = FaceEncoder.load(files / "msid.pt", files / "mapping.pt")
    crop = encoder.crop_face(astronaut(), choice=FaceChoice(landmarks=POINTS)).crop
    Image.fromarray(crop).save(tmp_path / "face.png")
    encode[1] = str(tmp_path / "face.png")
    plain, expressive = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    assert main([*encode, "--aligned", "--out", plain]) == 0
    expression = [
        "--expression",
        str(files / "epoch_20.pth"),
        "--expression-from",
        str(files / "photo.png"),
        "--expression-landmarks",
        LANDMARKS,
    ]
    assert main([*encode, "--aligned", *expression, "--out", expressive]) == 0
    assert not torch.allclose(load_file(plain)["words"], load_file(expressive)["words"])
    assert main([*encode, "--aligned", *expression, "--expression-strength", "0", "--out", expressive]) == 0
    assert torch.allclose(load_file(plain)["words"], load_file(expressive)["words"], atol=1e-6)


def test_generate_makes_a_grid_and_single_images(files, encode, tmp_path):
    words, grid, folder = (
        str(tmp_path / "s.safetensors"),
        str(tmp_path / "grid.png"),
        str(tmp_path / "all") + "/",
    )
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    generate = [
        "generate",
        words,
        "S* here",
        "--model",
        str(files / "sd"),
        "--steps",
        "1",
        "--size",
        "64x64",
        "--device",
        "cpu",
        "--count",
        "2",
    ]
    assert main([*generate, "--out", grid]) == 0
    assert main([*generate, "--out", folder, "--seed", "3", "--batch", "2"]) == 0
    assert Image.open(grid).size == (136, 64)
    with Image.open(tmp_path / "all" / "4.png") as image:
        assert "seed: 4" in image.text["parameters"]


def test_generate_encodes_a_photo_itself(files, encode, tmp_path):
    out = tmp_path / "a.png"
    generate = [
        "generate",
        encode[1],
        "S* here",
        *encode[2:],
        "--landmarks",
        LANDMARKS,
        "--model",
        str(files / "sd"),
        "--steps",
        "1",
        "--size",
        "64x64",
    ]
    assert main([*generate, "--out", str(out)]) == 0
    assert Image.open(out).size == (64, 64)


@pytest.mark.parametrize(
    ("name", "suffix"), [("msid.pt", ".pt"), ("mapping.pt", ".pt"), ("epoch_20.pth", ".pth")]
)
def test_convert_there_and_back_keeps_every_bit(files, tmp_path, name, suffix):
    ours, back = tmp_path / "ours.safetensors", tmp_path / f"back{suffix}"
    assert main(["convert", str(files / name), str(ours)]) == 0
    assert main(["convert", str(ours), str(back)]) == 0
    first, last = (torch.load(path, weights_only=True) for path in (files / name, back))
    first, last = first.get("net_recon", first), last.get("net_recon", last)
    assert first.keys() == last.keys()
    assert all(torch.equal(first[key], last[key]) for key in first)


def test_convert_can_change_what_the_metadata_says(files, tmp_path):
    deep, before = tmp_path / "deep.safetensors", tmp_path / "before.safetensors"
    assert main(["convert", str(files / "msid.pt"), str(deep), "--depths", "12"]) == 0
    assert main(["convert", str(files / "mapping.pt"), str(before), "--positional", "before"]) == 0
    with safe_open(deep, "pt") as file:
        assert '"depths": [12]' in file.metadata()["f2d.config"]
    with safe_open(before, "pt") as file:
        assert '"positional": "before"' in file.metadata()["f2d.config"]


def test_export_is_a_textual_inversion_embedding_for_its_position(files, encode, tmp_path):
    words, out = str(tmp_path / "s.safetensors"), tmp_path / "f2d_alice.safetensors"
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    assert main(["export", words, "--model", str(files / "sd"), "--out", str(out)]) == 0
    exported = load_file(out)
    assert list(exported) == ["f2d_alice"]
    position = random_pipeline().prompts.position_embedding[4:6]
    assert torch.allclose(exported["f2d_alice"] + position, load_file(words)["words"], atol=1e-6)


def test_endings_may_be_in_capitals(files, encode, tmp_path):
    words, out, grid = (
        str(tmp_path / name) for name in ("S.SAFETENSORS", "f2d_alice.SafeTensors", "grid.png")
    )
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    assert main(["export", words, "--model", str(files / "sd"), "--out", out]) == 0
    assert list(load_file(out)) == ["f2d_alice"]
    generate = [
        "--model",
        str(files / "sd"),
        "--steps",
        "1",
        "--size",
        "64x64",
        "--device",
        "cpu",
        "--out",
        grid,
    ]
    assert main(["generate", words, "S* here", *generate]) == 0
    assert main(["convert", str(files / "mapping.pt"), str(tmp_path / "MAPPING.SAFETENSORS")]) == 0
    assert main(["convert", str(tmp_path / "MAPPING.SAFETENSORS"), str(tmp_path / "MAPPING.PT")]) == 0


def test_the_node_and_diffusers_take_the_export(files, encode, tmp_path):
    words, out = str(tmp_path / "s.safetensors"), str(tmp_path / "f2d_alice.safetensors")
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    assert main(["export", words, "--model", str(files / "sd"), "--out", out]) == 0
    diffusion = random_pipeline().diffusion
    diffusion.load_textual_inversion(out, token="<alice>")
    assert torch.equal(diffusion.text_encoder.get_input_embeddings().weight[-2:], load_file(out)["f2d_alice"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--landmarks", "1,2 3,4", '"1,2 3,4" is not five points'),
        ("--landmarks", "1,2 3,4 5,6 7,8 9,x", "is not five points"),
        ("--steps", "0", "'0' is not a whole number from 1"),
        ("--size", "64", "'' is not a whole number from 1"),
    ],
)
def test_values_that_cannot_be_parsed_are_named(capsys, option, value, message):
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "photo.png", "S*", "--model", "m", "--out", "a.png", option, value])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_export_is_exact_at_the_position_that_it_is_given(files, encode, tmp_path):
    words, out = str(tmp_path / "s.safetensors"), str(tmp_path / "bob.safetensors")
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    assert main(["export", words, "--model", str(files / "sd"), "--position", "9", "--out", out]) == 0
    position = random_pipeline().prompts.position_embedding[9:11]
    assert torch.allclose(load_file(out)["bob"] + position, load_file(words)["words"], atol=1e-6)


def test_every_command_has_help_with_an_example(capsys):
    for command in ((), ("encode",), ("generate",), ("convert",), ("export",), ("download",), ("demo",)):
        with pytest.raises(SystemExit) as exit_:
            main([*command, "--help"])
        assert exit_.value.code == 0
        assert "f2d " + " ".join(command) in capsys.readouterr().out.split("example", 1)[1]


def test_download_lists_every_file(capsys):
    assert main(["download"]) == 0
    listed = capsys.readouterr().out
    assert all(
        name in listed
        for name in (
            "msid.pt",
            "mapping.pt",
            "epoch_20.pth",
            "face_detection_yunet_2023mar.onnx",
            "sd-config",
            "CompVis/stable-diffusion-v1-4",
            "OpenRAIL-M",
            "jonathandinu/face-parsing",
        )
    )


def test_a_model_folder_is_downloaded_with_what_training_needs(monkeypatch, tmp_path, capsys):
    import huggingface_hub
    from face2diffusion.f2d import download

    asked = {}

    def snapshot_download(repository, allow_patterns, local_dir):
        asked.update(repository=repository, files=allow_patterns)
        for file in allow_patterns[: len(allow_patterns) - missing]:
            target = Path(local_dir) / file.replace("*", "vocab.json")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"content")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    missing = 0
    assert main(["download", "stable-diffusion", "--to", str(tmp_path)]) == 0
    assert str(tmp_path / "stable-diffusion-v1-4") in capsys.readouterr().out
    assert asked["repository"] == "CompVis/stable-diffusion-v1-4"
    assert {"unet/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/*"} <= set(
        asked["files"]
    )
    missing = 1
    with pytest.raises(OSError, match=r"preprocessor_config\.json"):
        download.download("face-parsing", tmp_path)


def test_a_download_of_the_wrong_content_is_refused_and_leaves_no_file(monkeypatch, tmp_path):
    from face2diffusion.f2d import download

    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"not a detector" * 100)
    monkeypatch.setattr(download, "_fetch", lambda weights, scratch: str(wrong))
    with pytest.raises(ValueError, match="1400 bytes, but face_detection_yunet_2023mar.onnx has 232589"):
        download.download("yunet", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


BAD = {
    "no such photo": (
        ["missing.png", "--aligned", "--out", "s.safetensors"],
        "'missing.png' does not exist",
    ),
    "a folder": ([".", "--aligned", "--out", "s.safetensors"], "'.' is a folder"),
    "no way to find the face": (
        ["{photo}", "--out", "s.safetensors"],
        "Add --detector with a YuNet .onnx file, --landmarks or --aligned",
    ),
    "not square": (["{wide}", "--aligned", "--out", "s.safetensors"], "is square; this one has 512x256 px"),
    "landmarks outside the photo": (
        ["{photo}", "--landmarks", "1,1 1,1 1,1 1,1 1,1", "--out", "s.safetensors"],
        "coincide",
    ),
    "a bad target": (
        ["{photo}", "--aligned", "--out", "s.pt"],
        "'s.pt' cannot be written: its name must end with .safetensors",
    ),
    "an expression without its network": (
        ["{photo}", "--aligned", "--expression-from", "{photo}", "--out", "s.safetensors"],
        "--expression-from needs --expression. Name Deep3DFaceRecon's epoch_20.pth",
    ),
    "no detector file": (
        ["{photo}", "--detector", "yunet.onnx", "--out", "s.safetensors"],
        "'yunet.onnx' does not exist",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_status_2_and_one_line(files, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(astronaut()[:256]).save("wide.png")
    arguments, message = BAD[name]
    arguments = [argument.format(photo=files / "photo.png", wide="wide.png") for argument in arguments]
    assert (
        main(["encode", *arguments, "--msid", str(files / "msid.pt"), "--mapper", str(files / "mapping.pt")])
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("f2d: ")
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["wide.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["generate", "x.safetensors", "no placeholder", "--model", "m", "--out", "a.png"],
            "'no placeholder' does not contain 'S*'",
        ),
        (["generate", "x.safetensors", "S*", "--model", "m", "--out", "a.jpg"], "must end with .png"),
        (
            ["generate", "x.safetensors", "S*", "--model", "m", "--out", "a.png"],
            "'x.safetensors' does not exist",
        ),
        (["generate", "x.jpg", "S*", "--model", "m", "--out", "a.png"], "needs --msid and --mapper"),
        (
            ["generate", "x.safetensors", "S*", "--model", "m", "--out", "a.png", "--size", "100x100"],
            "100x100 px is impossible: both sides must be divisible by 8",
        ),
        (
            ["convert", "x.pt", "y.onnx"],
            "'y.onnx' cannot be written: its name must end with .safetensors, .pt or .pth",
        ),
        (["download", "everything"], "There is no download 'everything'. Choose one of msid, mapping"),
        (["demo", "--out", "demo.gif"], "must end with .png"),
    ],
)
def test_bad_options_end_with_status_2(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_swapped_files_are_told_apart(files, tmp_path, capsys):
    swapped = ["encode", str(files / "photo.png"), "--aligned", "--out", str(tmp_path / "s.safetensors")]
    assert main([*swapped, "--msid", str(files / "mapping.pt"), "--mapper", str(files / "mapping.pt")]) == 2
    assert "this is a mapping network, not an MSID encoder" in capsys.readouterr().err
    assert main([*swapped, "--msid", str(files / "msid.pt"), "--mapper", str(files / "epoch_20.pth")]) == 2
    assert "this is an expression network (Deep3DFaceRecon), not a mapping network" in capsys.readouterr().err


BAD_WORDS = {
    "three words": (
        {"words": torch.zeros(3, 768)},
        {},
        "'s.safetensors' does not hold two finite words: their shape is (3, 768)",
    ),
    "one vector": (
        {"words": torch.zeros(768)},
        {},
        "'s.safetensors' does not hold two finite words: their shape is (768,)",
    ),
    "not a number": (
        {"words": torch.full((2, 768), torch.nan)},
        {},
        "their shape is (2, 768), or one is NaN. Run `f2d encode` again.",
    ),
    "an unknown position": (
        {"words": torch.zeros(2, 768)},
        {"positional": "after"},
        "'s.safetensors' has positional 'after', not replace or before",
    ),
    "no words": (
        {"v_id": torch.zeros(2, 768)},
        {},
        "'s.safetensors' does not hold two finite words: their shape is (0,)",
    ),
}


@pytest.mark.parametrize(
    "command",
    [["export", "s.safetensors"], ["generate", "s.safetensors", "S* here"]],
    ids=["export", "generate"],
)
@pytest.mark.parametrize("name", BAD_WORDS)
def test_damaged_words_end_with_status_2_and_one_line(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.chdir(tmp_path)
    tensors, metadata, message = BAD_WORDS[name]
    save("s.safetensors", tensors, "words", **metadata)
    assert (
        main(
            [
                *command,
                "--model",
                "no model",
                "--out",
                "a.png" if command[0] == "generate" else "a.safetensors",
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my friend", "The name 'my friend' cannot be used in a prompt"),
        ("__metadata__", "named '__metadata__'"),
    ],
)
def test_embeddings_that_no_prompt_could_use_are_not_exported(files, encode, tmp_path, capsys, name, message):
    words, out = str(tmp_path / "s.safetensors"), tmp_path / "my embeddings" / f"{name}.safetensors"
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    assert main(["export", words, "--model", str(files / "sd"), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
    assert (
        main(["export", words, "--model", str(files / "sd"), "--out", str(out.with_stem("friend"))]) == 0
    ), "folders may have spaces"


def test_words_for_another_text_encoder_are_refused(files, encode, tmp_path, capsys):
    words = str(tmp_path / "wide.safetensors")
    encode[encode.index("--mapper") + 1] = str(files / "wide.pt")
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    assert (
        main(
            [
                "generate",
                words,
                "S* here",
                "--model",
                str(files / "sd"),
                "--out",
                str(tmp_path / "a.png"),
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    assert (
        "Words of shape (2, 1024) do not fit this text encoder, which needs (2, 768)"
        in capsys.readouterr().err
    )


def test_the_installed_command_runs():
    done = subprocess.run(
        [sys.executable, "-m", "face2diffusion.f2d.cli", "download"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mapping.pt" in done.stdout


# --- Options that anyone may type ---


@pytest.fixture
def generate(files, encode, tmp_path):
    """The arguments of a quick `f2d generate`, which ends with status 0."""
    words = str(tmp_path / "s.safetensors")
    assert main([*encode, "--landmarks", LANDMARKS, "--out", words]) == 0
    quick = ["--steps", "1", "--size", "64x64", "--device", "cpu", "--out", str(tmp_path / "a.png")]
    return ["generate", words, "S* here", "--model", str(files / "sd"), *quick]


def run(command, arguments, capsys):
    """Return the status and what is on stderr, whether argparse or the command ends it."""
    capsys.readouterr()
    try:
        status = command(arguments)
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda:77", "mps", "dml", "meta", "gpu", "cpu:cpu"])
@pytest.mark.parametrize("command", ["generate", "encode"])
def test_an_absent_device_is_one_line(generate, encode, command, device, tmp_path, capsys):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("needs a machine without MPS")
    arguments = generate if command == "generate" else [*encode, "--aligned", "--out", generate[1]]
    status, error = run(main, [*arguments, "--device", device], capsys)
    assert status == 2 and error.count("\n") == 1
    assert f"The device '{device}' is not available" in error and "leave the device out" in error


def test_every_seed_of_comfyui_works(generate, capsys):
    status, error = run(main, [*generate, "--seed", str(2**64 - 1), "--count", "2"], capsys)
    assert status == 0, error


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", str(2**64), "use one from 0 to 18446744073709551615"),
        ("--seed", "-1", "use one from 0"),
        ("--cfg", "nan", "nan is not finite"),
        ("--cfg", "1e999", "is not finite"),
        ("--strength", "inf", "inf is not finite"),
        ("--min-score", "nan", "nan is not finite"),
        ("--subject-from", "nan", "nan is not finite"),
        ("--landmarks", "nan,1 2,2 3,3 4,4 5,5", "is not five points"),
        ("--cfg", "1e38", "CFG scale 1e+38 is too large"),
        ("--size", "8x80000000000000", "memory"),
    ],
)
def test_numbers_that_make_no_image_end_with_status_2(generate, option, value, message, capsys):
    status, error = run(main, [*generate, f"{option}={value}"], capsys)
    assert status == 2 and message in error and "Traceback" not in error


@pytest.mark.parametrize("device", ["cuda:77", "dml", "gpu"])
def test_an_absent_device_stops_training_with_one_line(device, tmp_path, capsys):
    arguments = ["msid", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--device", device]
    status, error = run(training_cli.main, arguments, capsys)
    assert status == 2 and error.count("\n") == 1
    assert f"'{device}' is not available" in error and "Use 'c" in error


HOSTILE = [
    "",
    " ",
    "nan",
    "-inf",
    "-1",
    "0",
    "1e400",
    "9" * 30,
    "9" * 5000,
    "ü",
    "日本",
    "\ud800",
    "a\nb",
    "%s",
    "x,y",
    ",",
    "-",
    "--",
    "--=--",
]


def commands(parser):
    """The subparsers by name."""
    return next(action.choices for action in parser._actions if hasattr(action, "choices") and action.choices)


@pytest.mark.parametrize(
    ("program", "command"),
    [("f2d", name) for name in commands(_parser())]
    + [("f2d-train", name) for name in commands(training_cli._parser())],
)
def test_no_value_of_any_option_gives_a_traceback(program, command, tmp_path, monkeypatch, capsys):
    """Each option by itself; what is required besides names files that do not exist."""
    monkeypatch.chdir(tmp_path)
    ours = program == "f2d"
    main_, parser = (main, _parser()) if ours else (training_cli.main, training_cli._parser())
    monkeypatch.setattr(cli if ours else training_cli, "_parser", lambda: parser)  # making it takes a while
    actions = [
        action for action in commands(parser)[command]._actions if action.dest not in ("help", "comfyui")
    ]
    positional = ["missing.png" for action in actions if not action.option_strings and action.nargs != "?"]
    required = [part for action in actions if action.required and action.option_strings
                for part in (action.option_strings[0], "missing.safetensors")]  # fmt: skip
    rest = [command, *positional, *required] if command != "demo" else [command, "--out", "no.gif"]
    if not ours:
        rest.append("--dry-run")
    tried = 0
    for action, value in itertools.product(actions, HOSTILE):
        if action.option_strings and action.nargs != 0:
            status, error = run(main_, [*rest, f"{action.option_strings[0]}={value}"], capsys)
            assert status in (0, 2), (action.option_strings, value)
            assert "Traceback" not in error
            assert status == 0 or f"{program}" in error.splitlines()[-1] or "error:" in error, error
            tried += 1
    assert tried or command in ("convert", "download")


@pytest.mark.parametrize("module", [cli, training_cli], ids=["f2d", "f2d-train"])
def test_no_row_of_arguments_gives_a_traceback(module, tmp_path, monkeypatch, capsys):
    """Commands, options and values in random order, repeated and left out."""
    monkeypatch.chdir(tmp_path)
    parser = module._parser()
    monkeypatch.setattr(module, "_parser", lambda: parser)
    chance, statuses = random.Random(0), Counter()
    names = [name for name in commands(parser) if name not in ("demo", "miniature")]  # these need no argument
    for _ in range(300):
        name = chance.choice(names)
        actions = [one for one in commands(parser)[name]._actions if one.dest not in ("help", "comfyui")]
        options = [text for action in actions for text in action.option_strings]
        words = [*options, *HOSTILE, "missing.png", "missing.safetensors"]
        joined = [f"{chance.choice(options)}={chance.choice(HOSTILE)}" for _ in range(2)] if options else []
        row = chance.choices([*words, *joined], k=chance.randrange(9))
        status, error = run(module.main, [name, *row], capsys)
        assert status in (0, 2) and "Traceback" not in error, [name, *row]
        assert status == 0 or error.strip(), [name, *row]
        statuses[status] += 1
    assert statuses[2] > 250, "nearly all of these are mistakes"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_that_cannot_print_a_name_shows_escapes(files, tmp_path, monkeypatch, encoding):
    """The work is finished: it must not end with status 2 because of its last line."""
    out = tmp_path / "日本\udcff.safetensors"
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    assert main(["convert", str(files / "mapping.pt"), str(out)]) == 0
    console.flush()
    shown = console.buffer.getvalue().decode(encoding)
    assert out.exists() and ("日本" if encoding == "utf-8" else "\\u65e5\\u672c") in shown


@pytest.mark.parametrize("program", [main, training_cli.main], ids=["f2d", "f2d-train"])
def test_an_error_about_a_name_that_the_console_cannot_print_is_shown(program, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", console)
    arguments = (
        ["convert", "日本.pt", "a.pt"] if program is main else ["report", "--results", "日本", "--out", "a"]
    )
    assert program(arguments) == 2
    console.flush()
    assert b"\\u65e5\\u672c" in console.buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        (
            "yunet",
            RuntimeError("Cannot resolve huggingface.co\nmore lines"),
            "Cannot resolve huggingface.co)",
        ),
        ("msid", ConnectionError("No route to host"), "No route to host"),
        ("yunet", OSError(28, "No space left on device"), "No space is left"),
    ],
)
def test_download_without_a_network_says_that(monkeypatch, tmp_path, capsys, name, error, reason):
    from face2diffusion.f2d import download

    def fail(*_):
        raise error

    monkeypatch.setattr(download, "_fetch", fail)
    status, shown = run(main, ["download", name, "--to", str(tmp_path)], capsys)
    assert status == 2 and reason in shown and shown.count("\n") == 1
    assert ("Free some" in shown) == (error.args[0] == 28)
    assert ("Check the connection" in shown) == (error.args[0] != 28)
    assert list(tmp_path.iterdir()) == []


def test_export_warns_of_a_name_that_clip_has_as_a_token(generate, files, tmp_path, capsys):
    """The random tokenizer's words are letters."""
    for name, warned in (("x", True), ("f2d_alice", False)):
        arguments = [
            "export",
            generate[1],
            "--model",
            str(files / "sd"),
            "--out",
            f"{tmp_path}/{name}.safetensors",
        ]
        assert main(arguments) == 0
        assert ("token='<x>'" in capsys.readouterr().out) == warned
