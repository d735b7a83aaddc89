"""A real headless ComfyUI in a process of its own, with the pack under test and a pack of probe nodes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PROBE_NODES = Path(__file__).resolve().parent / "probe_nodes"
DEFAULT_WORKSPACE = Path.home() / "comfy" / "ComfyUI"  # comfy-cli's
HOW_TO_GET_COMFYUI = (
    "Set COMFYUI_PATH to one or more ComfyUI checkouts (separated like PATH), "
    "or install one with `pip install comfy-cli && comfy install --cpu`."
)
RUNTIME_MODULES = "aiohttp, torchsde, comfyui_frontend_package"

Prompt = dict[str, Any]


class MissingComfyUI(Exception):
    """No ComfyUI, or no Python that can run it; the message says how to get one."""


def find_checkouts() -> list[Path]:
    """Returns the checkouts in COMFYUI_PATH, else comfy-cli's workspace and its siblings named ComfyUI-*."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        candidates = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    else:
        candidates = [DEFAULT_WORKSPACE, *sorted(DEFAULT_WORKSPACE.parent.glob("ComfyUI-*"))]
    return [path.resolve() for path in candidates if (path / "main.py").is_file()]


def checkout_version(checkout: Path) -> str:
    """Returns a checkout's version, such as "0.3.64"."""
    found = re.search(r'__version__ = "(.+?)"', (checkout / "comfyui_version.py").read_text())
    return found.group(1) if found else checkout.name


def find_python(checkout: Path) -> Path:
    """Returns the Python that runs a checkout.

    That of its own environment, COMFYUI_PYTHON, or the running one.
    """
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    own = [checkout / folder / inside for folder in (".venv", "venv")]
    named = os.environ.get("COMFYUI_PYTHON")
    for candidate in [*own, *([Path(named)] if named else [])]:
        if candidate.is_file():
            return candidate
    here = Path(sys.executable)
    if (
        subprocess.run([here, "-c", f"import {RUNTIME_MODULES}"], capture_output=True, check=False).returncode
        == 0
    ):
        return here
    raise MissingComfyUI(
        f"No Python can run {checkout}: there is no {own[0]}, and COMFYUI_PYTHON and the running Python "
        f"lack {RUNTIME_MODULES}. Install the checkout's requirements.txt into one of them."
    )


@dataclass(frozen=True)
class NodeError:
    """What ComfyUI says about a node that it refused before the run (kind as in node_errors) or that raised
    in it.
    """

    node: str
    kind: str
    message: str


@dataclass
class Result:
    """The outcome of one prompt.

    Status "success", "error" or "invalid", outputs as in /history, and output files by node.
    """

    status: str
    seconds: float
    outputs: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)
    errors: list[NodeError] = field(default_factory=list)

    @property
    def message(self) -> str:
        """All error messages, one a line."""
        return "\n".join(f"{error.node}: {error.kind}: {error.message}" for error in self.errors)

    def file(self, node: str) -> Path:
        """Returns the only output file of a node."""
        found = self.files.get(node, [])
        if len(found) != 1:
            raise LookupError(
                f"Node {node} wrote {len(found)} files, not one; status {self.status}. {self.message}"
            )
        return found[0]


class ComfyServer:
    """Starts on entering the context, and on leaving ends the process it started."""

    def __init__(self, checkout: Path, base: Path, pack: Path | None = REPOSITORY, *arguments: str) -> None:
        """Takes a checkout, an empty or new folder for models, input, output and logs, the pack to link
        (None: none), and more options.
        """
        self.checkout = checkout
        self.version = checkout_version(checkout)
        self.base = base
        self.pack = pack
        self.arguments = arguments
        self.log = base / "server.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout: float = 300) -> None:
        """Lays out the base folder, starts the server and waits until it answers."""
        for name in ("models", "input", "output", "custom_nodes"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self._link_pack("f2d_probe_nodes", PROBE_NODES)
        if self.pack is not None:
            self._link_pack("face2diffusion", self.pack)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            str(find_python(self.checkout)),
            "main.py",
            "--cpu",
            "--base-directory",
            str(self.base),
            "--port",
            str(port),
        ]
        command += [
            "--disable-auto-launch",
            "--disable-api-nodes",
            "--database-url",
            f"sqlite:///{self.base / 'comfyui.db'}",
            *self.arguments,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.checkout, stdout=log, stderr=subprocess.STDOUT)
        self._wait_until_ready(timeout)

    def stop(self) -> None:
        """Ends the server process; does nothing when it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def memory(self) -> int:
        """Returns the bytes of RAM that the process holds, from Linux's /proc."""
        if self._process is None:
            raise RuntimeError("The server has not been started. Enter its context first.")
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def input(self) -> Path:
        """The folder that LoadImage lists."""
        return self.base / "input"

    @property
    def output(self) -> Path:
        """The folder that SaveImage writes to."""
        return self.base / "output"

    def log_text(self) -> str:
        """Returns all that the server has printed, without colors."""
        return re.sub(r"\x1b\[\d*m", "", self.log.read_text(errors="replace"))

    def failed_packs(self) -> list[str]:
        """Returns the folder names of custom node packs whose import failed."""
        return [
            Path(line.strip()).name for line in re.findall(r"\(IMPORT FAILED\):?\s*(.+)", self.log_text())
        ]

    def leaked_models(self) -> set[str]:
        """Returns the classes of models that ComfyUI found alive without their ModelPatcher.

        As long as there is one, it collects all garbage at each load of a model.
        """
        return set(re.findall(r"memory leak (?:detected )?with model (\w+)", self.log_text()))

    def place(self, source: Path | bytes, *where: str) -> Path:
        """Puts a file (as a link) or bytes at a path below the base folder, such as ("models", "checkpoints",
        "tiny.safetensors").
        """
        target = self.base.joinpath(*where)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            target.symlink_to(source.resolve())
        return target

    def upload_image(self, image: Path) -> str:
        """Uploads a picture as the frontend does and returns the name to give to LoadImage."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{image.name}"\r\n'
        body = (
            f"{head}Content-Type: application/octet-stream\r\n\r\n".encode()
            + image.read_bytes()
            + f"\r\n--{boundary}--\r\n".encode()
        )
        answer = self._request("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return str(json.loads(answer)["name"])

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """Returns /object_info of all nodes by id, or of one node; an unknown node gives {}."""
        if node is None:
            return dict(self.get("/object_info"))
        return dict(self.get(f"/object_info/{node}").get(node, {}))

    def get(self, path: str) -> Any:
        """Returns the JSON that the server answers for a path."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """Returns the body that the server answers for a path."""
        return self._request(path)

    def post(self, path: str, value: Any) -> bytes:
        """Posts a JSON value and returns the body of the answer."""
        return self._request(path, json.dumps(value).encode(), "application/json")

    def run(self, prompt: Prompt, timeout: float = 120) -> Result:
        """Runs a prompt in API format to its end; a refused or failing prompt is a result too."""
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": "tests"})
        except urllib.error.HTTPError as error:
            answer = error.read()
        return self.follow(json.loads(answer), timeout)

    def follow(self, answer: dict[str, Any], timeout: float = 120) -> Result:
        """Waits for the end of a prompt, given what POST /prompt answered to it."""
        start, pause = time.monotonic(), 0.002
        refusals = _validation_errors(answer)
        if "prompt_id" not in answer:
            return Result("invalid", 0, errors=refusals)
        while time.monotonic() - start < timeout:
            entry = self.get(f"/history/{answer['prompt_id']}").get(answer["prompt_id"])
            if entry:
                result = self._read_history(entry, time.monotonic() - start)
                result.errors += refusals
                return result
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)
            self._raise_if_ended()
        raise TimeoutError(f"The prompt took more than {timeout:.0f} s.\n{self._log_tail()}")

    def _read_history(self, entry: dict[str, Any], seconds: float) -> Result:
        events = dict(entry["status"]["messages"])
        result = Result(entry["status"]["status_str"], seconds, entry["outputs"])
        result.cached = {str(node) for node in events.get("execution_cached", {}).get("nodes", [])}
        for node, output in entry["outputs"].items():
            listed = [item for items in output.values() if isinstance(items, list) for item in items]
            found = [
                self.base / item["type"] / item["subfolder"] / item["filename"]
                for item in listed
                if _is_file(item)
            ]
            if found:
                result.files[node] = found
        if failure := events.get("execution_error"):
            result.errors.append(
                NodeError(failure["node_id"], failure["exception_type"], failure["exception_message"].strip())
            )
        return result

    def _link_pack(self, name: str, source: Path) -> None:
        link = self.base / "custom_nodes" / name
        if not link.exists():
            link.symlink_to(source, target_is_directory=True)

    def _request(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind} if kind else {})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def _wait_until_ready(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self._raise_if_ended()
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        self.stop()
        raise TimeoutError(
            f"ComfyUI {self.version} did not answer within {timeout:.0f} s.\n{self._log_tail()}"
        )

    def _raise_if_ended(self) -> None:
        code = self._process.poll() if self._process else "none"
        if code is None:
            return
        if missing := re.search(
            r"\nModuleNotFoundError: No module named '(\w+)\S*$", self.log_text().rstrip()
        ):
            python = find_python(self.checkout)
            raise MissingComfyUI(
                f"ComfyUI {self.version} needs a package: {python} -m pip install {missing.group(1)}"
            )
        raise RuntimeError(f"ComfyUI {self.version} has ended with exit status {code}.\n{self._log_tail()}")

    def _log_tail(self, lines: int = 40) -> str:
        return "\n".join(["The end of its log:", *self.log_text().splitlines()[-lines:]])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_file(item: Any) -> bool:
    return isinstance(item, dict) and {"filename", "subfolder", "type"} <= item.keys()


def _validation_errors(answer: dict[str, Any]) -> list[NodeError]:
    """Reads the answer of POST /prompt.

    One error for each complaint about a node, or the general one where there is none.
    """
    found = [
        NodeError(node, error["type"], f"{error['message']}: {error['details']}")
        for node, entry in answer.get("node_errors", {}).items()
        for error in entry["errors"]
    ]
    if not found and answer.get("error"):
        found = [
            NodeError(
                "", answer["error"]["type"], f"{answer['error']['message']}: {answer['error']['details']}"
            )
        ]
    return found
