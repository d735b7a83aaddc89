"""The real ComfyUI frontend in a headless Chromium.

What a user sees on opening a workflow, and screenshots of it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from support.server import ComfyServer, Result

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Response

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOW_TO_GET_CHROMIUM = (
    "Install playwright (pip install playwright) and Chromium (or name it in F2D_TEST_CHROMIUM)."
)
QUIET = (
    "--no-first-run --disable-gpu --disable-quic --disable-background-networking "
    "--disable-component-update --disable-sync"
)
ARGUMENTS = ["--no-sandbox", *QUIET.split()]
TIMEOUT_MS = 60_000

# What a user who has seen the first-run dialogs has, an empty start and a bare canvas. The two about the
# mouse are defaults; frontend 1.27 fails on starting where they are not stored.
SETTINGS = {
    "Comfy.Locale": "en",
    "Comfy.TutorialCompleted": True,
    "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"],
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
    "Comfy.Canvas.LeftMouseClickBehavior": "panning",
    "Comfy.Canvas.MouseWheelScroll": "zoom",
    "Comfy.Pointer.DoubleClickTime": 2000,  # ms; on a loaded machine two clicks are over 300 apart
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.LowQualityRenderingZoomThreshold": 0.1,  # draw text however small; frontend 1.27
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # the same in 1.49
}
EXPECTED_404 = ("/user.css", "/api/userdata")  # asked for by every fresh installation
EXPECTED_MESSAGES = (
    "Failed to load resource",  # comes as a response too
    # frontend 1.49 asks model hosts for file sizes, which --disable-api-nodes forbids
    "Content Security Policy",
)

HIDE_ALL_BUT_GRAPH = """
.p-toast, .p-dialog-mask, [role=dialog], [role=alert], .workflow-tabs-container, .side-tool-bar-container,
.comfyui-body-top, .comfyui-body-left, .comfyui-body-right, .comfyui-body-bottom, .comfy-menu-hamburger,
.fixed.top-0.right-0, #comfyui-body-top { display: none !important }
"""
READY = (
    "() => window.app?.extensionManager?.spinner === false"  # asking for app.graph before that logs an error
)
LOAD = """async workflow => {
    await app.refreshComboInNodes();  // files placed since the page was opened, as pressing R does
    await app.loadGraphData(workflow);
    const known = type => type in LiteGraph.registered_node_types;
    const choices = widget => {
        const values = widget.options?.values;
        return typeof values === "function" ? values(widget) : values;
    };
    const unknown_values = [];
    for (const node of app.graph.nodes)
        for (const widget of node.widgets ?? []) {
            const values = choices(widget);
            if (widget.type === "combo" && Array.isArray(values) && !values.includes(widget.value))
                unknown_values.push({
                    node: String(node.id), type: node.type, widget: widget.name, value: widget.value,
                });
        }
    return {
        missing_nodes: [...new Set(workflow.nodes.map(node => node.type).filter(type => !known(type)))],
        unknown_values,
        prompt: (await app.graphToPrompt()).output,
    };
}"""
ACTIVE = "(app.extensionManager.workflow?.activeWorkflow ?? {})"
IS_APP = f"() => ({ACTIVE}.activeMode ?? {ACTIVE}.initialMode) === 'app'"  # older versions have no app mode
SHOW_GRAPH = f"() => {{ {ACTIVE}.activeMode = 'graph'; }}"
HAS_SIZE = "([width, height]) => innerWidth === width && innerHeight === height"
# Drawing without a GPU costs more than all else: ten frames a second, where nobody looks.
FEW_FRAMES = """(() => {
    window.requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 100);
    window.cancelAnimationFrame = clearTimeout;
})()"""
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
HIDE = """rules => {
    app.extensionManager.focusMode = true;
    document.head.append(Object.assign(document.createElement("style"), {textContent: rules}));
}"""
FIT = """async margin => {
    app.canvas.deselectAll?.();
    const items = [...app.graph.nodes, ...(app.graph.groups ?? [])];
    const boxes = items.map(item => item.boundingRect ?? item.getBounding());
    const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]));
    const right = Math.max(...boxes.map(box => box[0] + box[2]));
    const bottom = Math.max(...boxes.map(box => box[1] + box[3]));
    const wide = innerWidth - 2 * margin, high = innerHeight - 2 * margin;
    const scale = Math.min(wide / (right - left), high / (bottom - top), 1);
    app.canvas.resize(innerWidth, innerHeight);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset[0] = innerWidth / 2 / scale - (left + right) / 2;
    app.canvas.ds.offset[1] = innerHeight / 2 / scale - (top + bottom) / 2;
    app.canvas.setDirty(true, true);
}"""


class MissingBrowser(Exception):
    """No playwright or no Chromium; the message says how to get them."""


@dataclass
class OpenedWorkflow:
    """What the frontend makes of a workflow.

    `unknown_values` are the combo widgets that it draws red, each {node, type, widget, value}; `errors` are
    console errors, uncaught exceptions and refused requests while it was opened; `prompt` is the output of
    its own graphToPrompt; `is_app` tells whether it opens as a form.
    """

    missing_nodes: list[str]
    unknown_values: list[dict[str, Any]]
    prompt: dict[str, Any]
    is_app: bool = False
    errors: list[str] = field(default_factory=list)


class Browser:
    """A headless Chromium, ended on leaving the context."""

    def __enter__(self) -> Browser:
        executable = find_chromium()
        try:
            from playwright.sync_api import sync_playwright
        except ImportError as error:
            raise MissingBrowser(f"playwright is not installed. {HOW_TO_GET_CHROMIUM}") from error
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chromium.close()
        self._playwright.stop()

    def open(self, server: ComfyServer, settings: dict[str, Any] | None = None) -> Frontend:
        """Opens a server's frontend in a fresh profile, with more settings, and waits until it is ready."""
        server.post("/settings", SETTINGS | (settings or {}))
        server.post(
            "/history", {"clear": True}
        )  # the frontend cannot read that of a test with NaN in its graph
        context = self._chromium.new_context(reduced_motion="reduce")  # dialogs that slide in cost 2 s each
        return Frontend(context.new_page(), server)


class Frontend:
    """One page with the frontend of a server; closed on leaving the context."""

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.add_init_script(FEW_FRAMES)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("response", self._on_response)
        page.goto(server.url)
        page.wait_for_function(READY, timeout=TIMEOUT_MS)
        page.wait_for_load_state("networkidle")

    def __enter__(self) -> Frontend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the page."""
        self.page.context.close()

    def load(self, workflow: dict[str, Any]) -> OpenedWorkflow:
        """Opens a workflow, as dropping its file on the canvas does, and shows its graph."""
        self.page.keyboard.press("Escape")
        self.errors.clear()
        found = self.page.evaluate(LOAD, workflow)
        self.page.wait_for_load_state("networkidle")
        is_app = self.page.evaluate(IS_APP)
        self.page.evaluate(SHOW_GRAPH)
        return OpenedWorkflow(**found, is_app=is_app, errors=list(self.errors))

    def load_template(self, name: str, pack: str = "face2diffusion") -> OpenedWorkflow:
        """Opens the template <name> of a pack from the address where the template gallery finds it."""
        answer = self.page.request.get(f"{self.server.url}/api/workflow_templates/{pack}/{name}.json")
        if not answer.ok:
            raise FileNotFoundError(
                f"The template {name} is missing: {answer.url} answers {answer.status}. Check its name."
            )
        return self.load(answer.json())

    def run(self, timeout: float = 120) -> Result:
        """Presses "Run" and waits for the end; previews then stand on the nodes."""
        with self.page.expect_response(
            lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
        ) as sent:
            self.page.evaluate("() => { app.queuePrompt(0) }")
        result = self.server.follow(sent.value.json(), timeout)
        self.page.wait_for_load_state("networkidle")
        return result

    def screenshot(self, path: Path, width: int = 1280, height: int = 720, margin: int = 20) -> Path:
        """Draws the graph, fitted to width x height pixels, without menus, dialogs and messages.

        .png or .jpg by the name.
        """
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate(HIDE, HIDE_ALL_BUT_GRAPH)
        self.page.wait_for_timeout(300)  # the layout without menus
        self.page.wait_for_function(HAS_SIZE, arg=[width, height])
        self.page.evaluate(FIT, margin)
        self.page.evaluate(TWO_FRAMES)
        self.page.wait_for_timeout(500)  # text boxes follow the canvas
        self.page.screenshot(path=path)
        return path

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(part in message.text for part in EXPECTED_MESSAGES):
            self.errors.append(message.text)

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and not any(part in response.url for part in EXPECTED_404):
            self.errors.append(f"{response.status} {response.url}")


def find_chromium() -> str:
    """Returns Chromium's executable: F2D_TEST_CHROMIUM, else the first on the path."""
    candidates = (os.environ.get("F2D_TEST_CHROMIUM"), *map(shutil.which, CHROMIUM_NAMES))
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return candidate
    raise MissingBrowser(f"No Chromium found. {HOW_TO_GET_CHROMIUM}")
