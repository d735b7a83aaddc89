"""The architecture: who may import whom, what the registry's scan forbids, and where each equation has its home."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("f2d", "nodes", "training")
SOURCES = [
    ROOT / "__init__.py",
    *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))),
]
SHIPPED_TO_COMFYUI = [
    path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("__init__.py", "f2d", "nodes")
]

# Packages that the library may import, besides the standard library: anywhere, or inside functions of one file or folder.
ANYWHERE = {"torch", "numpy", "cv2", "PIL", "safetensors", "timm"}
INSIDE_FUNCTIONS = {
    "diffusers": "f2d/diffusion/",
    "transformers": "f2d/diffusion/",
    "face_alignment": "f2d/face/detection.py",
    "gdown": "f2d/download.py",
    "huggingface_hub": ("f2d/diffusion/", "f2d/download.py"),
}
HOMES = {
    1: "training/losses.py",
    2: "f2d/encoder.py",
    3: "training/losses.py",
    4: "f2d/networks/mapping.py",
    5: "training/mapper/denoising.py",
    6: "training/mapper/denoising.py",
    7: "training/losses.py",
    8: "training/losses.py",
    9: "f2d/encoder.py",
    **dict.fromkeys(range(10, 15), "training/evaluation/metrics.py"),
}
BUILT = {number: home for number, home in HOMES.items() if (ROOT / home).exists()}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def of(package: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(ROOT).parts[0] == package]


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Each import's module, its number of leading dots, and whether it stands inside a function."""
    tree = parse(path)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, id(node) in inside


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Each function and method that is not private, with its full name."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and (
                not child.name.startswith("_") or child.name == "__init__"
            ):
                if isinstance(child, ast.FunctionDef):
                    yield prefix + child.name, child
                else:
                    yield from visit(child, f"{prefix}{child.name}.")

    yield from visit(parse(path), "")


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


# --- Imports ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", of("f2d"), ids=name_of)
def test_library_imports_only_what_it_may(path: Path) -> None:
    for module, level, inside in imports(path):
        package = module.partition(".")[0]
        if level:
            assert level < len(path.relative_to(ROOT).parts), (
                f"Expected {name_of(path)} to stay inside f2d, got an import {'.' * level}{module}"
            )
        elif package in INSIDE_FUNCTIONS:
            assert inside, f"Expected {package} inside a function of {name_of(path)}, got it at the top"
            assert name_of(path).startswith(INSIDE_FUNCTIONS[package]), (
                f"Expected {package} in {INSIDE_FUNCTIONS[package]}, got it in {name_of(path)}"
            )
        else:
            assert package in ANYWHERE | sys.stdlib_module_names, (
                f"Expected no import of {package} in {name_of(path)}"
            )


@pytest.mark.parametrize("path", of("nodes"), ids=name_of)
def test_nodes_import_only_comfyui_and_the_library(path: Path) -> None:
    for module, level, _ in imports(path):
        package = module.partition(".")[0]
        if level > 1:
            assert level == 2 and package == "f2d", (
                f"Expected {name_of(path)} to import nodes and f2d only, got {'.' * level}{module}"
            )
        elif level == 0:
            assert (
                package in {"comfy", "comfy_api", "folder_paths", "torch", "numpy"} | sys.stdlib_module_names
            ), f"{name_of(path)}: {module}"


@pytest.mark.parametrize("path", of("training"), ids=name_of)
def test_training_never_imports_the_nodes_or_comfyui(path: Path) -> None:
    for module, level, _ in imports(path):
        assert not (level and re.match(r"nodes\b", module)), f"{name_of(path)}: {module}"
        assert level or module.partition(".")[0] not in {"comfy", "comfy_api", "folder_paths"}, (
            f"{name_of(path)}: {module}"
        )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_package_imports_itself_by_relative_names_only(path: Path) -> None:
    assert not [
        module
        for module, level, _ in imports(path)
        if not level and module.partition(".")[0] in {"face2diffusion", *PACKAGES}
    ]


def test_root_imports_nothing_before_comfyui_asks() -> None:
    assert [module for module, level, inside in imports(ROOT / "__init__.py") if not inside] == []
    assert [(module, level) for module, level, inside in imports(ROOT / "__init__.py") if inside] == [
        ("nodes", 1)
    ]


@pytest.mark.parametrize(
    "statement", ["import face2diffusion", "from face2diffusion.f2d import FaceIdentity, ALIGNMENTS"]
)
def test_light_imports_stay_light(statement: str) -> None:
    heavy = python(
        f"import sys; {statement}; print(*{{'timm', 'cv2', 'diffusers', 'transformers', 'comfy'}} & set(sys.modules))"
    )
    assert heavy == ""


def test_package_loads_without_torch_and_comfyui() -> None:
    assert python("import sys, face2diffusion, face2diffusion.f2d; print('torch' in sys.modules)") == "False"


# --- What the registry's scan forbids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED_TO_COMFYUI, ids=name_of)
def test_nothing_runs_other_programs_or_opens_connections(path: Path) -> None:
    forbidden = {
        "subprocess",
        "socket",
        "urllib",
        "requests",
        "http",
        "httpx",
        "aiohttp",
        "ctypes",
        "multiprocessing",
    }
    assert not [module for module, _, _ in imports(path) if module.partition(".")[0] in forbidden]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in {"environ", "environb", "putenv", "getenv", "system", "popen"}, (
                f"{name_of(path)}:{node.lineno}"
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}, (
                f"{name_of(path)}:{node.lineno}"
            )


@pytest.mark.parametrize("path", SHIPPED_TO_COMFYUI, ids=name_of)
def test_pickles_are_read_as_weights_only(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "torch.load",
            "pickle.load",
            "pickle.loads",
            "np.load",
            "numpy.load",
        }:
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            assert ast.unparse(node.func) == "torch.load" and options.get("weights_only") == "True", (
                f"{name_of(path)}:{node.lineno}"
            )


# --- Style -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "home"), BUILT.items(), ids=[f"Eq. {number}" for number in BUILT])
def test_equation_has_one_home(number: int, home: str) -> None:
    found = []
    for path in SOURCES:
        for name, function in functions(path):
            first_line = (ast.get_docstring(function) or "").partition("\n")[0]
            if str(number) in re.findall(r"Eq\. (\d+)", first_line):
                found.append((name_of(path), name))
    assert [path for path, _ in found] == [home], (
        f"Expected Eq. {number} in one function of {home}, got {found}"
    )


def test_equations_of_the_library_are_all_there() -> None:
    assert {2, 4, 9} <= set(BUILT)


@pytest.mark.parametrize("path", of("f2d"), ids=name_of)
def test_functions_that_take_or_give_arrays_tell_their_shape(path: Path) -> None:
    for name, function in functions(path):
        arguments = [*function.args.args, *function.args.kwonlyargs, function.args.vararg]
        annotations = [argument.annotation for argument in arguments if argument] + [function.returns]
        texts = [ast.unparse(annotation) for annotation in annotations if annotation]
        texts = [
            text for text in texts if not re.match(r"(Mapping|dict)\[str, (torch\.)?Tensor\]", text)
        ]  # a state dict has many
        if any(re.search(r"\b(Tensor|ndarray|Photo)\b", text) for text in texts):
            assert "shape" in (ast.get_docstring(function) or ""), (
                f"Expected the shape in the docstring of {name_of(path)}: {name}"
            )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parse(path)), f"Expected a docstring at the top of {name_of(path)}"


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    assert not [name_of(path) for path in files if vague & {path.stem, *path.relative_to(ROOT).parts[:-1]}]


def test_requirements_are_the_packages_dependencies() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line for line in lines if line.strip()) == sorted(dependencies)


def test_installed_packages_are_all_named() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")
    named = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    )
    folders = {
        ".".join(["face2diffusion", *path.parent.relative_to(ROOT).parts])
        for path in SOURCES
        if path.name == "__init__.py"
    }
    assert named == folders
