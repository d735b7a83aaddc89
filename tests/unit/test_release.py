"""What is released: the archive's files, what their code may do, the GitHub workflows, and which changes of
the nodes break graphs.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.archive import shipped_files
from support.comfy_stub import read_schemas
from support.schema import COMMITTED, breaking_changes
from support.server import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)
LONGEST = 180  # of a path; Windows allows 260 with the folders above


@pytest.fixture(scope="module")
def shipped() -> list[str]:
    """The paths in the archive."""
    return shipped_files()


# --- The archive ---


def test_the_archive_holds_what_users_need_and_nothing_else(shipped: list[str]) -> None:
    kinds = {
        "": {"py", "md", "toml", "txt", ""},
        "f2d": {"py", "toml", "json", "safetensors", "png"},
        "nodes": {"py"},
        "training": {"py", "toml", "json"},
        "web": {"md", "jpg", "png", "webp"},
        "locales": {"json"},
        "workflows": {"json", "jpg"},
        "subgraphs": {"json"},
    }
    for name in shipped:
        folder = name.partition("/")[0] if "/" in name else ""
        assert folder in kinds, (
            f"Expected no folder {folder} in the archive, got {name}. Name it in .comfyignore."
        )
        assert Path(name).suffix.removeprefix(".") in kinds[folder], (
            f"Expected no {name} in the archive. Name it in .comfyignore."
        )
    assert {
        "__init__.py",
        "pyproject.toml",
        "requirements.txt",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
    } <= set(shipped)
    assert {name.partition("/")[0] for name in shipped if "/" in name} == set(kinds) - {""}


def test_nothing_that_runs_is_left_out(shipped: list[str]) -> None:
    needed = {path for folder in ("f2d", "nodes", "training") for path in (REPOSITORY / folder).rglob("*.py")}
    assert {
        path.relative_to(REPOSITORY).as_posix() for path in needed if "__pycache__" not in path.parts
    } <= set(shipped)


def test_names_suit_every_system(shipped: list[str]) -> None:
    for name in shipped:
        assert len(name) <= LONGEST, f"Expected at most {LONGEST} characters, got {name}"
        for part in name.split("/"):
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part) and not RESERVED.fullmatch(part), (
                f"Windows cannot store {name}"
            )
            assert part.isascii(), f"Expected ASCII, which archivers agree on, got {name}"
    assert len({name.lower() for name in shipped}) == len(shipped), (
        "Expected names that differ in more than case"
    )


def test_files_are_small(shipped: list[str]) -> None:
    sizes = {name: (REPOSITORY / name).stat().st_size for name in shipped}
    miniature = {name for name in shipped if name.startswith("f2d/miniature/weights/")}
    assert sum(sizes[name] for name in miniature) < 40_000_000
    assert {name: sizes[name] for name in set(shipped) - miniature if sizes[name] > 300_000} == {}
    assert sum(sizes[name] for name in set(shipped) - miniature) < 5_000_000


def test_an_installed_package_has_the_miniature_too() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")

    data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = REPOSITORY / "f2d" / "miniature"
    found = {
        path
        for pattern in data["face2diffusion.f2d.miniature"]
        for path in folder.glob(pattern)
        if path.is_file()
    }
    assert found >= {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".safetensors", ".json", ".png")
    }
    assert REPOSITORY / "workflows" / "one_face.json" in {
        path for pattern in data["face2diffusion"] for path in REPOSITORY.glob(pattern)
    }


def test_the_code_in_the_archive_runs_no_programs_and_sets_no_environment(shipped: list[str]) -> None:
    """The registry flags whole versions for such findings.

    The nodes themselves are held to more in test_boundaries.py.
    """
    for name in (name for name in shipped if name.endswith(".py")):
        for node in ast.walk(ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))):
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                )
                relative = isinstance(node, ast.ImportFrom) and node.level
                assert relative or not {"subprocess", "socket", "urllib", "requests", "http", "ctypes"} & {
                    module.partition(".")[0] for module in modules
                }, where
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {
                    "eval",
                    "exec",
                    "compile",
                    "__import__",
                    "os.system",
                    "os.popen",
                    "os.putenv",
                    "os.unsetenv",
                }, where
                assert not re.match(r"os\.environ\.(update|setdefault|pop|clear)", called), where
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                assert ast.unparse(node.value) != "os.environ", where


PICTURE = re.compile(r"!\[[^]]*\]\((?!http)([^)]+)\)")


def test_no_page_but_the_readme_is_shipped_without_its_pictures(shipped: list[str]) -> None:
    for page in (name for name in shipped if name.endswith(".md") and name != "README.md"):
        folder = (
            "web/docs" if page.startswith("web/docs/") else str(Path(page).parent)
        )  # all languages show the pictures of web/docs
        shown = PICTURE.findall((REPOSITORY / page).read_text(encoding="utf-8"))
        assert {f"{folder}/{picture}" for picture in shown} <= set(shipped), page


def test_the_registry_finds_the_icon_and_the_banner(shipped: list[str]) -> None:
    """A square of at most 400 px, and 21:9; both come from the repository, not from the archive."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    comfy, repository = project["tool"]["comfy"], project["project"]["urls"]["Repository"]
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")
    sizes = {}
    for key in ("Icon", "Banner"):
        base, _, path = comfy[key].partition("/main/")
        assert base == raw and path not in shipped
        with Image.open(REPOSITORY / path) as image:
            sizes[key] = image.size
        assert (REPOSITORY / path).stat().st_size < 200_000
    assert sizes["Icon"][0] == sizes["Icon"][1] <= 400
    assert sizes["Banner"][0] * 9 == sizes["Banner"][1] * 21


def test_an_app_names_widgets_and_images_that_exist() -> None:
    """What `linearData` names wrongly, the frontend leaves out without a message."""
    schemas = read_schemas()
    core = {"LoadImage": {"image"}, "CLIPTextEncode": {"text"}, "KSampler": {"seed"}}
    found = {}
    for path in sorted((REPOSITORY / "workflows").glob("*.json")):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        app = workflow["extra"].get("linearData")
        if app is None:
            continue
        nodes = {node["id"]: node for node in workflow["nodes"]}
        for number, widget in app["inputs"]:
            kind = nodes[number]["type"]
            ours = {socket.id for socket in schemas[kind].inputs} if kind in schemas else core[kind]
            labels = [entry.get("label") for entry in nodes[number]["inputs"] if entry["name"] == widget]
            assert widget in ours and all(labels) and len(labels) == 1, (path.stem, number)
        assert [nodes[number]["type"] for number in app["outputs"]] == ["SaveImage"]
        found[path.stem] = workflow["extra"]["linearMode"]
    assert found == {"one_face": True, "expression_reference": True, "face_detail": False}


def test_every_help_page_has_a_picture() -> None:
    pages = (REPOSITORY / "web" / "docs").rglob("*.md")
    assert [str(page) for page in pages if not PICTURE.search(page.read_text(encoding="utf-8"))] == []


# --- GitHub ---


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_github_workflow_is_well_formed(path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs pip install pyyaml")
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert {"name", "jobs", "permissions"} <= set(workflow) and True in workflow, (
        "YAML reads the key 'on' as true"
    )
    for job in workflow["jobs"].values():
        if "uses" in job:  # another workflow, of this repository
            assert (REPOSITORY / job["uses"]).is_file()
            continue
        assert job["runs-on"] and job["steps"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    assert not re.search(r"\t|[ ]$", text, re.MULTILINE)


def test_the_matrices_hold_every_python_and_two_versions_of_comfyui() -> None:
    yaml = pytest.importorskip("yaml", reason="needs pip install pyyaml")
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))[
        "jobs"
    ]
    pythons = jobs["check"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.10", "3.11", "3.12", "3.13"]
    oldest = re.search(
        r'requires-comfyui = ">=(.+)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert oldest and jobs["comfy"]["strategy"]["matrix"] == {
        "comfyui": [oldest[1], "latest"],
        "python": [pythons[0], pythons[-1]],
    }


def test_nothing_is_published_before_the_tests_have_passed() -> None:
    yaml = pytest.importorskip("yaml", reason="needs pip install pyyaml")
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))[
        "jobs"
    ]
    assert jobs["publish"]["needs"] == "tests"
    assert jobs["tests"]["uses"] == "./.github/workflows/ci.yml"


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ('version = "1.0"\n', 'version = "1.1"\n', True),
        ('version = "1.0"\n', 'version = "1.0"\ndependencies = []\n', False),
        (None, 'version = "1.0"\n', True),
    ],
    ids=["a new version", "another change", "started by hand"],
)
def test_only_a_new_version_is_published(tmp_path: Path, before: str | None, after: str, new: bool) -> None:
    yaml = pytest.importorskip("yaml", reason="needs pip install pyyaml")
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))[
        "jobs"
    ]
    assert (
        jobs["tests"]["needs"] == "version"
        and jobs["tests"]["if"] == "${{ needs.version.outputs.new == 'true' }}"
    )
    (script,) = (step["run"] for step in jobs["version"]["steps"] if step.get("id") == "compare")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "BEFORE": "",
    }

    def run(*command: str) -> str:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    run("git", "init", "-q")
    for content in filter(None, (before, "", after)):  # a push of several commits
        (tmp_path / "pyproject.toml").write_text(content)
        run("git", "add", "pyproject.toml")
        run(
            "git",
            "-c",
            "user.name=someone",
            "-c",
            "user.email=someone@example.org",
            "commit",
            "-qm",
            "change",
        )
        if content == before:
            environment["BEFORE"] = run("git", "rev-parse", "HEAD")
    run("bash", "-e", "-c", script)
    assert (tmp_path / "output").exists() == new


def test_the_changelog_tells_of_this_version() -> None:
    version = re.search(
        r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version and f"## [{version[1]}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


# --- Changes of the nodes ---

NODE = {
    "inputs": {
        "image": {"type": "IMAGE", "required": True},
        "mode": {"type": "COMBO", "required": True, "options": ["soft", "hard"], "default": "soft"},
    },
    "outputs": [["IMAGE", "face"], ["MASK", "mask"]],
}


def changed(**changes: Any) -> dict[str, Any]:
    return {
        "Node": {
            "inputs": NODE["inputs"] | changes.pop("inputs", {}),
            "outputs": changes.pop("outputs", NODE["outputs"]),
        }
    }


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        ({}, "Node is gone"),
        (changed(inputs={"image": {"type": "MASK", "required": True}}), "Node.image takes MASK, not IMAGE"),
        (
            {"Node": {"inputs": {"image": NODE["inputs"]["image"]}, "outputs": NODE["outputs"]}},
            "Node.mode is gone",
        ),
        (
            changed(inputs={"mode": {**NODE["inputs"]["mode"], "options": ["hard"]}}),
            "Node.mode no longer offers soft",
        ),
        (changed(inputs={"more": {"type": "INT", "required": True}}), "Node.more is new and required"),
        (
            {
                "Node": {
                    "inputs": {"size": {"type": "INT", "required": False}, **NODE["inputs"]},
                    "outputs": NODE["outputs"],
                }
            },
            "Node's widgets are in another order",
        ),
        (changed(outputs=[["MASK", "mask"]]), "Node's output 0 is MASK, not IMAGE"),
        (changed(outputs=[["IMAGE", "face"]]), "Node's output 1 is gone"),
        (
            changed(
                inputs={
                    "first": {"type": "INT", "required": False},
                    "mode": {**NODE["inputs"]["mode"], "default": "hard"},
                }
            ),
            "Node.mode starts as hard, not soft",
        ),
    ],
)
def test_a_change_that_breaks_saved_graphs_is_found(new: dict[str, Any], complaint: str) -> None:
    assert complaint in breaking_changes({"Node": NODE}, new)


def test_additions_break_nothing() -> None:
    more = {
        "size": {"type": "INT", "required": False, "default": 1},
        "mode": {**NODE["inputs"]["mode"], "options": ["soft", "hard", "new"]},
    }
    assert breaking_changes({"Node": NODE}, changed(inputs=more) | {"Another": NODE}) == []


def test_the_committed_schemas_name_every_node() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "nodes").glob("*.py"))
    assert set(json.loads(COMMITTED.read_text(encoding="utf-8"))) == set(
        re.findall(r'node_id="(\w+)"', sources)
    )


def test_prompts_are_flagged_for_the_frontend_to_expand() -> None:
    """`{red|blue}` and `//` comments, as in CLIP Text Encode."""
    flagged = {
        (name, entry.id)
        for name, schema in read_schemas().items()
        for entry in schema.inputs
        if entry.options.get("dynamic_prompts")
    }
    assert flagged == {
        ("F2DConditioning", "prompt"),
        ("F2DConditioning", "negative_prompt"),
        ("F2DPickBest", "prompt"),
    }
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert all(committed[name]["inputs"][entry].get("dynamicPrompts") for name, entry in flagged)
