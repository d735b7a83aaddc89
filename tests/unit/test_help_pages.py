"""The nodes are the only source of their texts: help tables and translations follow them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from make_help_tables import LANGUAGES, Language, page_path, read_texts, update_page
from support.comfy_stub import Schema, read_schemas
from support.schema import COMMITTED
from support.server import REPOSITORY

SCHEMAS = read_schemas()
ENGLISH, *TRANSLATIONS = LANGUAGES


@pytest.fixture(params=SCHEMAS.values(), ids=SCHEMAS)
def schema(request: pytest.FixtureRequest) -> Schema:
    """A node's schema."""
    return request.param


@pytest.fixture(params=LANGUAGES, ids=lambda language: language.code)
def language(request: pytest.FixtureRequest) -> Language:
    """A language of the help pages."""
    return request.param


def read_page(schema: Schema, language: Language = ENGLISH) -> str:
    return page_path(schema.node_id, language.code).read_text(encoding="utf-8")


def test_a_page_has_the_tables_of_its_node(schema: Schema, language: Language) -> None:
    page = read_page(schema, language)
    assert update_page(page, schema, language) == page, "Run python scripts/make_help_tables.py"


def test_a_changed_tooltip_and_a_new_input_reach_the_page(schema: Schema) -> None:
    first = schema.inputs[0]
    changed = replace(first, options={**first.options, "tooltip": "Another text with S*."})
    page = update_page(
        read_page(schema), replace(schema, inputs=[changed, replace(first, id="new")]), ENGLISH
    )
    assert f"| `{first.id}` | {first.type} |" in page
    assert r"| Another text with S\*. |" in page
    assert "| `new` |" in page


def test_a_changed_name_reaches_the_title(schema: Schema) -> None:
    page = update_page(read_page(schema), replace(schema, display_name="Another S*"), ENGLISH)
    assert page.startswith("# Another S\\*\n")


def test_a_page_without_a_place_for_a_table_is_refused(schema: Schema) -> None:
    page = read_page(schema).replace("<!-- /outputs -->", "")
    with pytest.raises(
        ValueError, match=r"0 places for the table of outputs.*<!-- outputs --> <!-- /outputs -->"
    ):
        update_page(page, schema, ENGLISH)


@pytest.mark.parametrize("language", TRANSLATIONS, ids=lambda language: language.code)
def test_a_translation_has_every_text_of_the_nodes_and_no_other(language: Language) -> None:
    path = REPOSITORY / "locales" / language.code / "nodeDefs.json"
    translated = json.loads(path.read_text(encoding="utf-8"))
    assert set(translated) == set(SCHEMAS)
    for node, schema in SCHEMAS.items():
        assert paths(translated[node]) == paths(read_texts(schema, "en")), node


@pytest.mark.parametrize("language", TRANSLATIONS, ids=lambda language: language.code)
def test_the_categories_that_comfyui_does_not_have_are_translated(language: Language) -> None:
    path = REPOSITORY / "locales" / language.code / "main.json"
    categories = json.loads(path.read_text(encoding="utf-8"))["nodeCategories"]
    used = {name for schema in SCHEMAS.values() for name in schema.category.split("/")}
    assert set(categories) == used - {"face2diffusion", "loaders", "conditioning", "image"}


def paths(texts: dict | str, prefix: str = "") -> set[str]:
    """The places of all texts that are not empty."""
    if isinstance(texts, str):
        return {prefix} if texts else set()
    return {path for key, value in texts.items() for path in paths(value, f"{prefix}/{key}")}


def test_only_translations_are_stored() -> None:
    assert {path.name for path in (REPOSITORY / "locales").iterdir()} == {
        language.code for language in TRANSLATIONS
    }


def test_names_and_categories_follow_one_scheme(schema: Schema) -> None:
    assert "F2D" not in schema.display_name
    assert schema.category in {
        f"face2diffusion/{name}" for name in ("loaders", "identity", "conditioning", "image")
    }


def test_the_schemas_read_here_are_those_of_comfyui(schema: Schema) -> None:
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))[schema.node_id]
    assert [
        (socket.id, socket.type, not socket.options.get("optional", False))
        for socket in schema.ordered_inputs()
    ] == [(name, entry["type"], entry["required"]) for name, entry in committed["inputs"].items()]
    assert [[socket.type, socket.options["display_name"]] for socket in schema.outputs] == committed[
        "outputs"
    ]


def test_reading_the_schemas_leaves_no_stand_ins_behind() -> None:
    assert not {
        "comfy",
        "comfy_api",
        "folder_paths",
        "face2diffusion.nodes",
        "face2diffusion.nodes.inject",
    } & set(sys.modules)
