"""The architecture: layers, import circles, what the registry's scan forbids, the homes of the equations."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("f2d", "nodes", "training")
SOURCES = [
    ROOT / "__init__.py",
    *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))),
]
IN_COMFYUI = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("__init__.py", "f2d", "nodes")]

# Files and folders, the lowest layer first: a file imports from its own line and the lines above it.
LAYERS = {
    "f2d": [
        "options device files command_line",
        "tensor_files checkpoint_kinds checkpoint image",
        "face",
        "networks",
        "prompt",
        "identity",
        "diffusion encoder",
        "ranking miniature",
        "demo download",
        "commands",
        "cli",
    ],
    "nodes": [
        "notices model_folders new_files sockets schema_parts core_faces",
        "managed_encoder subject_clip",
        "load_encoder encode_identity expression_reference inject conditioning combine_identities "
        "save_load_identity export_embedding face_landmarks face_regions pick_best",
    ],
    "training": [
        "config losses",
        "engine",
        "data",
        "mapper msid",
        "evaluation",
        "report",
        "miniature",
        "cli",
    ],
    "training/miniature": ["world", "models", "recipe", "shipping", "study"],
}
PACKAGES_BELOW = {"f2d": {"f2d"}, "nodes": {"f2d", "nodes"}, "training": {"f2d", "training"}}

# What may be imported besides the standard library: anywhere, or inside functions of these files and folders.
ANYWHERE = {
    "f2d": {"torch", "numpy", "cv2", "PIL", "safetensors", "timm"},
    "nodes": {"torch", "numpy", "comfy", "comfy_api", "folder_paths"},
}
INSIDE_FUNCTIONS = {
    "comfy_execution": ("nodes/notices.py",),
    "server": ("nodes/notices.py",),
    "diffusers": ("f2d/diffusion/",),
    "transformers": ("f2d/diffusion/",),
    "face_alignment": ("f2d/face/detection.py",),
    "gdown": ("f2d/download.py",),
    "pillow_heif": ("f2d/image.py",),
    "huggingface_hub": ("f2d/download.py", "f2d/diffusion/"),
}
OF_COMFYUI = {"comfy", "comfy_api", "folder_paths", "nodes", "execution", "server"}

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

LONGEST = 55  # lines of a function
TOO_LONG = {  # schemas, which are declarations
    "nodes/face_regions.py: define_schema",
    "nodes/pick_best.py: define_schema",
}

SAME_NAME = {  # the same thing for two subjects
    "cli": "f2d and f2d-train",
    "regions": "parts of an image: of a prompt, of a face",
    "train": "the training of the mapper and of MSID",
}


# --- The sources, each parsed once ---


class Import(NamedTuple):
    """An imported module; if it is ours, as a path such as "f2d/face/detection"."""

    module: str
    ours: bool
    path: Path
    line: int
    inside: bool  # a function

    @property
    def package(self) -> str:
        return re.split(r"[./]", self.module)[0]

    def __str__(self) -> str:
        return f"{name_of(self.path)}:{self.line} imports {self.module}"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def of(package: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(ROOT).parts[0] == package]


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """The module's syntax tree, flat, the module first."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def module_of(path: Path) -> str:
    """Return a file's module as a path: "f2d/face/detection", "f2d/face" for its `__init__.py`."""
    relative = path.relative_to(ROOT).with_suffix("")
    return (relative.parent if relative.name == "__init__" else relative).as_posix().removeprefix(".")


MODULES = {module_of(path): path for path in SOURCES}


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """All imports of a file, those for type checkers and those inside functions too."""
    functions = (node for node in nodes_of(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    inside = {id(node) for function in functions for node in ast.walk(function)}
    found = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            modules = [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [(node.module or "", False)]
        elif isinstance(node, ast.ImportFrom):
            modules = [(module, True) for module in _resolve(path, node)]
        else:
            continue
        found += [Import(module, ours, path, node.lineno, id(node) in inside) for module, ours in modules]
    return tuple(found)


def _resolve(path: Path, node: ast.ImportFrom) -> list[str]:
    """What `from ..package import name` imports: `package/name` if that is a module, else `package`."""
    package = path.parents[node.level - 1]
    assert package.is_relative_to(ROOT), f"{name_of(path)}:{node.lineno} imports from above the repository"
    base = "/".join([*package.relative_to(ROOT).parts, *(node.module or "").split(".")]).strip("/")
    names = (f"{base}/{alias.name}".strip("/") for alias in node.names)
    return list(dict.fromkeys(name if name in MODULES else base for name in names))


def own_imports(path: Path) -> list[Import]:
    return [found for found in imports(path) if found.ours]


def foreign_imports(path: Path) -> list[Import]:
    return [
        found for found in imports(path) if not found.ours and found.package not in sys.stdlib_module_names
    ]


@cache
def functions(path: Path) -> tuple[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef], ...]:
    """Each public function and method, with its full name."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                not child.name.startswith("_") or child.name == "__init__"
            ):
                if isinstance(child, ast.ClassDef):
                    yield from visit(child, f"{prefix}{child.name}.")
                else:
                    yield prefix + child.name, child

    return tuple(visit(nodes_of(path)[0], ""))


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


# --- Who imports whom ---


def test_a_package_imports_only_what_is_below_it() -> None:
    wrong = [
        str(found)
        for package, below in PACKAGES_BELOW.items()
        for path in of(package)
        for found in own_imports(path)
        if found.package not in below
    ]
    assert wrong == [], f"f2d imports neither nodes nor training, which do not import each other: {wrong}"


def layer_of(folder: str, module: str) -> int | None:
    """Return the line of LAYERS[folder] that names `module`; None for what is not in the folder."""
    if not module.startswith(f"{folder}/"):
        return None
    name = module.removeprefix(f"{folder}/").split("/")[0]
    lines = [number for number, names in enumerate(LAYERS[folder]) if name in names.split()]
    assert len(lines) == 1, f"{module} has to stand on one line of LAYERS[{folder!r}], not on {len(lines)}"
    return lines[0]


@pytest.mark.parametrize("folder", LAYERS)
def test_nothing_imports_from_a_higher_layer(folder: str) -> None:
    upwards = []
    for module, path in MODULES.items():
        own = layer_of(folder, module)
        layers = ((found, layer_of(folder, found.module)) for found in own_imports(path))
        upwards += [str(found) for found, layer in layers if None not in (own, layer) and layer > own]
    assert not upwards, "\n".join(upwards)


def test_nothing_imports_from_the_package_that_holds_all() -> None:
    """Inside a package, each name comes from the file that defines it."""
    inside = [path for path in SOURCES if path.parent != ROOT]
    above = [str(found) for path in inside for found in own_imports(path) if found.module in ("", *PACKAGES)]
    assert not above, "\n".join(above)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components with more than one module, or with an edge to itself (Tarjan)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in graph.get(module, ()):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1 or module in graph.get(module, ()):
                found.append(sorted(component))

    for module in list(graph):
        if module not in number:
            visit(module)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set(), "e": {"a", "e"}}
    assert sorted(circles(graph)) == [["b", "c"], ["e"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_no_imports_run_in_a_circle() -> None:
    """Neither at the top, nor inside functions, nor for type checkers."""
    graph, lines = defaultdict(set), {}
    for module, path in MODULES.items():
        for found in own_imports(path):
            assert found.module in MODULES, f"{found}, which is no module"
            graph[module].add(found.module)
            lines[module, found.module] = str(found)
    told = [
        [line for (start, end), line in lines.items() if start in circle and end in circle]
        for circle in circles(graph)
    ]
    assert not told, "\n\n".join("\n".join(lines) for lines in told)


@pytest.mark.parametrize("package", ANYWHERE)
def test_other_packages_are_imported_where_they_may_be(package: str) -> None:
    wrong = []
    for path in of(package):
        for found in foreign_imports(path):
            homes = INSIDE_FUNCTIONS.get(found.package, ())
            lazily = found.inside and name_of(path).startswith(homes or ("nowhere",))
            if found.package not in ANYWHERE[package] and not lazily:
                wrong.append(str(found))
    assert wrong == [], f"{wrong}: anywhere only {ANYWHERE[package]}, inside functions {INSIDE_FUNCTIONS}"


def test_training_knows_no_comfyui_and_loads_diffusers_late() -> None:
    found = [found for path in of("training") for found in foreign_imports(path)]
    assert [str(one) for one in found if one.package in OF_COMFYUI] == []
    late = {"diffusers", "transformers"}
    assert [str(one) for one in found if one.package in late and not one.inside] == []


def test_the_package_imports_itself_by_relative_names_only() -> None:
    absolute = {"face2diffusion", *PACKAGES}
    assert [
        str(found) for path in SOURCES for found in foreign_imports(path) if found.package in absolute
    ] == []


def test_root_imports_nothing_before_comfyui_asks() -> None:
    assert [(found.module, found.inside) for found in imports(ROOT / "__init__.py")] == [("nodes", True)]


@pytest.mark.parametrize(
    "statement", ["import face2diffusion", "from face2diffusion.f2d import FaceIdentity, ALIGNMENTS"]
)
def test_light_imports_stay_light(statement: str) -> None:
    heavy = "{'timm', 'cv2', 'diffusers', 'transformers', 'comfy'}"
    assert python(f"import sys; {statement}; print(*{heavy} & set(sys.modules))") == ""


def test_package_loads_without_torch_and_comfyui() -> None:
    assert python("import sys, face2diffusion, face2diffusion.f2d; print('torch' in sys.modules)") == "False"


# --- What the registry's scan forbids ---


def test_nothing_runs_other_programs_or_opens_connections() -> None:
    modules = {"subprocess", "multiprocessing", "ctypes"}
    modules |= {"socket", "urllib", "requests", "http", "httpx", "aiohttp"}
    of_os = {"environ", "environb", "putenv", "getenv", "system", "popen"}
    builtins = {"eval", "exec", "compile", "__import__"}
    wrong = [str(found) for path in IN_COMFYUI for found in imports(path) if found.package in modules]
    for path in IN_COMFYUI:
        for node in nodes_of(path):
            match node:
                case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in of_os:
                    wrong.append(f"{name_of(path)}:{node.lineno} os.{name}")
                case ast.Call(func=ast.Name(id=name)) if name in builtins:
                    wrong.append(f"{name_of(path)}:{node.lineno} {name}")
    assert not wrong, "\n".join(wrong)


def test_pickles_are_read_as_weights_only() -> None:
    wrong = []
    for path in IN_COMFYUI:
        for node in nodes_of(path):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            if called in {"pickle.load", "pickle.loads", "np.load", "numpy.load"} or (
                called == "torch.load" and options.get("weights_only") != "True"
            ):
                wrong.append(f"{name_of(path)}:{node.lineno} {called}")
    assert not wrong, "\n".join(wrong)


# --- Equations, names, sizes ---


@pytest.mark.parametrize(("number", "home"), HOMES.items(), ids=[f"Eq. {number}" for number in HOMES])
def test_equation_has_one_home(number: int, home: str) -> None:
    found = []
    for path in SOURCES:
        for name, function in functions(path):
            first_line = (ast.get_docstring(function) or "").partition("\n")[0]
            if str(number) in re.findall(r"Eq\. (\d+)", first_line):
                found.append((name_of(path), name))
    assert [path for path, _ in found] == [home], f"Eq. {number} belongs to one function of {home}: {found}"


def test_functions_with_arrays_tell_their_shape() -> None:
    silent = []
    for path in of("f2d"):
        for name, function in functions(path):
            arguments = [*function.args.args, *function.args.kwonlyargs, function.args.vararg]
            annotations = [argument.annotation for argument in arguments if argument] + [function.returns]
            texts = [ast.unparse(annotation) for annotation in annotations if annotation]
            # a state dict has many shapes
            texts = [text for text in texts if not re.match(r"(Mapping|dict)\[str, (torch\.)?Tensor\]", text)]
            arrays = any(re.search(r"\b(Tensor|ndarray|Photo)\b", text) for text in texts)
            if arrays and "shape" not in (ast.get_docstring(function) or ""):
                silent.append(f"{name_of(path)}:{function.lineno} {name}")
    assert not silent, "\n".join(silent)


def test_every_file_says_what_it_is_for() -> None:
    assert [name_of(path) for path in SOURCES if not ast.get_docstring(nodes_of(path)[0])] == []


def test_no_function_is_too_long() -> None:
    long = {}
    for path in SOURCES:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST:
                    long[f"{name_of(path)}: {node.name}"] = lines
    new = {name: lines for name, lines in long.items() if name not in TOO_LONG}
    assert new == {}, f"A function has at most {LONGEST} lines"


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    assert not [name_of(path) for path in files if vague & {path.stem, *path.relative_to(ROOT).parts[:-1]}]


def test_files_share_a_name_only_for_the_same_thing() -> None:
    named = defaultdict(list)
    for path in SOURCES:
        if path.name != "__init__.py":
            named[path.stem].append(name_of(path))
    shared = {name: paths for name, paths in named.items() if len(paths) > 1}
    unexpected = {name: paths for name, paths in shared.items() if name not in SAME_NAME}
    assert unexpected == {}, "Rename one, or name in SAME_NAME what they have in common"


# --- What is installed ---


def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_requirements_are_the_packages_dependencies() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line for line in lines if line.strip()) == sorted(pyproject()["project"]["dependencies"])
    assert not [line for line in lines if "opencv" in line], "pip would install it over another flavor of cv2"


def test_stand_alone_installations_bring_opencv() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    assert extras["opencv"] == ["opencv-python"]
    needed = "test"  # of the README's quick start; by way of train and pipeline
    for extra in ("train", "pipeline", "opencv"):
        assert f"face2diffusion[{extra}]" in extras[needed]
        needed = extra


def test_installed_packages_are_all_named() -> None:
    folders = {
        ".".join(["face2diffusion", *path.parent.relative_to(ROOT).parts])
        for path in SOURCES
        if path.name == "__init__.py"
    }
    assert set(pyproject()["tool"]["setuptools"]["packages"]) == folders


def test_ruff_bans_the_same_imports() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read ruff.toml")
    for package, banned in {
        "f2d": {"comfy", "comfy_api", "folder_paths", "accelerate", "subprocess"},
        "nodes": {"accelerate", "diffusers", "transformers", "subprocess"},
        "training": {"comfy", "comfy_api", "folder_paths", "subprocess"},
    }.items():
        settings = tomllib.loads((ROOT / package / "ruff.toml").read_text(encoding="utf-8"))
        assert settings["extend"] == "../pyproject.toml"
        assert banned <= set(settings["lint"]["flake8-tidy-imports"]["banned-api"]), package
