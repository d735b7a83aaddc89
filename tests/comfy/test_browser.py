"""What a user does with mouse and keyboard in the real frontend.

Templates, running, saving, help, languages and the blueprint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from support import graph
from support.browser import (
    ACTIVE,
    FIT,
    HOW_TO_GET_CHROMIUM,
    IS_APP,
    SHOW_GRAPH,
    TIMEOUT_MS,
    Browser,
    Frontend,
)
from support.comfy_stub import read_schemas
from support.server import REPOSITORY, ComfyServer, Result

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

playwright = pytest.importorskip("playwright.sync_api", reason=HOW_TO_GET_CHROMIUM)
expect = playwright.expect
WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
(BLUEPRINT,) = (REPOSITORY / "subgraphs").glob("*.json")
SHOWN = (
    "SaveImage",
    "PreviewImage",
    "EncodeFaceIdentity",
    "F2DFaceLandmarks",
)  # nodes on which pictures stand after a run

APPS = ("one_face", "expression_reference")  # these open as a form
HAS_APPS = "() => app.extensionManager.command.commands.some(command => command.id === 'Comfy.ToggleLinear')"
TYPES = "() => app.graph.nodes.map(node => node.type).sort()"
SHRINK = """score => {
    const set = (type, values) => app.graph.nodes.filter(node => node.type === type).forEach(node =>
        Object.entries(values).forEach(([name, value]) => {
            node.widgets.find(widget => widget.name === name).value = value;
        }));
    set("EmptyLatentImage", {width: 64, height: 64});
    set("KSampler", {steps: 2});
    for (const type of ["EncodeFaceIdentity", "F2DFaceLandmarks"])
        set(type, {min_score: score});  // another for each workflow: cached nodes show no pictures
}"""
WITHOUT_PICTURE = """types => app.graph.nodes
    .filter(node => types.includes(node.type) && !node.imgs?.length)
    .map(node => node.title)"""
REMOVE_OTHERS = """kept => app.graph.nodes
    .filter(node => !kept.includes(Number(node.id)))
    .forEach(node => app.graph.remove(node))"""
EMPTY_PLACE = """() => {
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 3000];
    app.canvas.setDirty(true, true);
}"""


@pytest.fixture(scope="module")
def desk(pack: ComfyServer, browser: Browser) -> Iterator[Frontend]:
    """The frontend with all its menus, opened once for each server."""
    with browser.open(pack) as opened:
        yield opened


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> Path:
    """A bundled workflow."""
    return request.param


def types(path: Path) -> list[str]:
    return sorted(node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"])


def open_from_gallery(desk: Frontend, path: Path) -> None:
    """Opens a template by clicks, and looks at its thumbnail on the way."""
    page = desk.page
    page.evaluate(
        "() => { app.graph.clear(); app.extensionManager.command.execute('Comfy.BrowseTemplates'); }"
    )
    card = page.get_by_test_id(f"template-workflow-{path.stem}")
    choose_pack(page, card)
    card.scroll_into_view_if_needed()  # pictures are loaded when they come into sight
    wait_for_width(card.locator("img").first, 640)
    card.click()
    page.wait_for_function(
        f"wanted => JSON.stringify(({TYPES})()) === JSON.stringify(wanted)", arg=types(path)
    )
    page.get_by_role("dialog").wait_for(state="hidden")
    page.wait_for_function(f"name => ({ACTIVE}.filename ?? name).startsWith(name)", arg=path.stem)
    page.wait_for_load_state("networkidle")


def choose_pack(page: Page, card: Locator) -> None:
    """Clicks the pack in the gallery's list until its card is there: a click on a list that is still being
    built is lost.
    """
    for _ in range(6):
        page.get_by_role("dialog").get_by_text("face2diffusion", exact=True).first.click()
        with suppress(playwright.TimeoutError):
            card.wait_for(state="attached", timeout=10_000)
            return
    card.wait_for(state="attached")


def wait_for_width(image: Locator, pixels: int) -> None:
    """Waits until an image is loaded; the frontend may replace the element meanwhile."""
    expect(image).to_have_js_property("naturalWidth", pixels, timeout=TIMEOUT_MS)


def press_run(desk: Frontend) -> Result:
    """Clicks the Queue button and waits for the end."""
    with desk.page.expect_response(
        lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
    ) as sent:
        desk.page.get_by_test_id("queue-button").click()
    return desk.server.follow(sent.value.json(), timeout=300)


def test_a_template_opens_from_the_gallery_and_runs_by_the_button(desk: Frontend, workflow: Path) -> None:
    open_from_gallery(desk, workflow)
    desk.page.evaluate(SHOW_GRAPH)  # some open as a form
    desk.page.evaluate(SHRINK, 0.3 + 0.01 * WORKFLOWS.index(workflow))
    result = press_run(desk)
    assert result.status == "success", result.message
    desk.page.evaluate(FIT, 100)  # what is out of sight is not drawn
    desk.page.wait_for_function(f"types => ({WITHOUT_PICTURE})(types).length === 0", arg=list(SHOWN))


@pytest.mark.parametrize("name", APPS)
def test_an_app_is_a_form_that_runs(desk: Frontend, name: str, tmp_path: Path) -> None:
    page, workflow = desk.page, REPOSITORY / "workflows" / f"{name}.json"
    if not page.evaluate(HAS_APPS):
        pytest.skip("needs a frontend with app mode, as ComfyUI 0.33 has")
    saved = json.loads(workflow.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in saved["nodes"]}
    labels = [
        next(entry["label"] for entry in nodes[number]["inputs"] if entry["name"] == widget)
        for number, widget in saved["extra"]["linearData"]["inputs"]
    ]
    open_from_gallery(desk, workflow)
    assert page.evaluate(IS_APP)
    page.evaluate(SHRINK, 0.5 - 0.01 * APPS.index(name))
    form = page.get_by_test_id("linear-widgets")
    expect(form.get_by_test_id("builder-widget-label")).to_have_text(labels, timeout=TIMEOUT_MS)
    form.locator("textarea").fill("A photo of S* in a forest")
    with page.expect_response(
        lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
    ) as sent:
        page.get_by_test_id("linear-run-button").get_by_role("button").last.click()
    result = desk.server.follow(sent.value.json(), timeout=300)
    assert result.status == "success", result.message
    assert "A photo of S* in a forest" in sent.value.request.post_data
    wait_for_width(page.get_by_test_id("linear-center-panel").locator("img").first, 64)
    if folder := os.environ.get("F2D_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"app_{name}.png")
    page.evaluate(SHOW_GRAPH)


def test_a_saved_and_reopened_workflow_is_unchanged(desk: Frontend, workflow: Path) -> None:
    page, info = desk.page, desk.server.object_info()
    original = json.loads(workflow.read_text(encoding="utf-8"))
    desk.load(original)
    page.evaluate("() => { app.extensionManager.command.execute('Comfy.SaveWorkflowAs') }")
    name = page.get_by_role("dialog").locator("input")
    name.fill(f"kept {workflow.stem}")
    with page.expect_response(
        lambda response: "userdata" in response.url and response.request.method == "POST"
    ) as sent:
        name.press("Enter")
    assert sent.value.ok
    assert f"kept%20{workflow.stem}." in sent.value.url, "an app ends with .app.json"
    saved = desk.server.get(urlsplit(sent.value.url).path)
    assert graph.to_api(saved, info) == graph.to_api(original, info)
    opened = desk.load(saved)
    assert opened.prompt == graph.to_api(original, info)
    assert content(page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")) == content(saved)


def content(workflow: dict[str, Any]) -> dict[str, Any]:
    """What makes up a saved workflow, without the view and the drawing order."""
    nodes = [{key: value for key, value in node.items() if key != "order"} for node in workflow["nodes"]]
    return {
        "nodes": sorted(nodes, key=lambda node: node["id"]),
        "links": sorted(workflow["links"]),
        "groups": workflow["groups"],
    }


def test_a_help_page_opens(desk: Frontend) -> None:
    text = help_page(desk, "InjectSStar")
    assert "means this person" in text
    assert "The word for the person in prompts" in text, "a cell of the generated table"
    assert "<!--" not in text


def help_page(desk: Frontend, node: str) -> str:
    """Opens a node's help page by the button above the node, waits for its picture and returns its text."""
    page = desk.page
    desk.load(json.loads((REPOSITORY / "workflows" / "one_face.json").read_text(encoding="utf-8")))
    page.evaluate(FIT, 150)  # the button is to lie beside the menus
    page.evaluate("type => app.canvas.selectNode(app.graph.nodes.find(node => node.type === type))", node)
    page.get_by_test_id("info-button").click()
    page.wait_for_function("() => document.querySelector('.node-help-content img')?.naturalWidth > 0")
    return page.locator(".node-help-content").inner_text()


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_node_names_change_with_the_language(pack: ComfyServer, browser: Browser, language: str) -> None:
    with browser.open(pack, {"Comfy.Locale": language}) as desk:
        check_names(desk, language)


def check_names(desk: Frontend, language: str) -> None:
    """Checks names and category of new nodes, titles in an opened workflow, and a help page."""
    page = desk.page
    locale = REPOSITORY / "locales" / language
    names = json.loads((locale / "nodeDefs.json").read_text(encoding="utf-8"))
    categories = json.loads((locale / "main.json").read_text(encoding="utf-8"))["nodeCategories"]
    titles = page.evaluate(
        "ids => Object.fromEntries(ids.map(id => [id, LiteGraph.createNode(id).title]))", list(names)
    )
    assert titles == {name: entry["display_name"] for name, entry in names.items()}
    category = page.evaluate("() => LiteGraph.registered_node_types.EncodeFaceIdentity.category")
    assert category == f"face2diffusion/{categories['identity']}"
    assert titles["InjectSStar"] in help_page(desk, "InjectSStar")
    assert titles["InjectSStar"] in page.evaluate("() => app.graph.nodes.map(node => node.title)")


def test_english_names_come_from_the_nodes(desk: Frontend) -> None:
    schemas = read_schemas()
    found = desk.page.evaluate(
        """ids => Object.fromEntries(ids.map(id => {
            const node = LiteGraph.createNode(id);
            const label = slot => slot.label ?? slot.localized_name ?? slot.name;
            return [id, [node.title, node.outputs.map(label)]];
        }))""",
        list(schemas),
    )
    assert found == {
        name: [schema.display_name, [socket.options["display_name"] for socket in schema.outputs]]
        for name, schema in schemas.items()
    }


def test_the_blueprint_is_found_by_name_and_runs(desk: Frontend) -> None:
    page, server = desk.page, desk.server
    if tuple(map(int, server.version.split("."))) < (0, 3, 67):
        pytest.skip("ComfyUI 0.3.67 is the first that serves the blueprints of packs.")
    listed = [
        key
        for key, entry in server.get("/global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.face2diffusion"
    ]
    assert len(listed) == 1
    assert server.get(f"/global_subgraphs/{listed[0]}")["data"] == BLUEPRINT.read_text(encoding="utf-8")

    # "one_face" without the nodes that the blueprint stands for
    workflow = json.loads((REPOSITORY / "workflows" / "one_face.json").read_text(encoding="utf-8"))
    replaced = {"LoadFaceEncoder", "EncodeFaceIdentity", "InjectSStar", "CLIPTextEncode", "MarkdownNote"}
    kept = {node["id"] for node in workflow["nodes"] if node["type"] not in replaced}
    desk.load(workflow)
    page.evaluate(SHRINK, 0.4)
    page.evaluate(REMOVE_OTHERS, list(kept))
    page.evaluate(EMPTY_PLACE)
    page.mouse.dblclick(640, 360)
    page.wait_for_function("() => document.activeElement.tagName === 'INPUT'")
    page.keyboard.type("Face to Prompt")
    # The results follow the typing with a delay; those of "Face" have the blueprint too, but not first.
    page.get_by_role("option", selected=True).filter(has_text=BLUEPRINT.stem).wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function("() => app.graph.nodes.some(node => node.isSubgraphNode?.())")
    page.get_by_role("dialog").wait_for(state="hidden")  # while it closes, it takes clicks
    page.mouse.click(640, 360)  # puts the node down
    page.wait_for_function("() => app.canvas.state.ghostNodeId == null")
    page.evaluate("""() => {
        const find = type => app.graph.nodes.find(node => node.type === type);
        const blueprint = app.graph.nodes.find(node => node.isSubgraphNode?.());
        find("CheckpointLoaderSimple").connect(1, blueprint, "clip");
        find("LoadImage").connect(0, blueprint, "image");
        blueprint.connect(0, find("KSampler"), "positive");
        blueprint.connect(1, find("KSampler"), "negative");
        blueprint.connect(2, find("PreviewImage"), "images");
    }""")
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert {node["class_type"] for node in prompt.values()} >= {
        "LoadFaceEncoder",
        "EncodeFaceIdentity",
        "InjectSStar",
        "F2DConditioning",
    }
    result = press_run(desk)
    assert result.status == "success", result.message
    assert len(result.files) == 3, "the saved picture, the face and the numbered boxes"
