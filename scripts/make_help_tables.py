"""Writes the titles of the nodes' help pages and their tables of inputs and outputs, in all languages.

The English texts come from the nodes, the translations from locales/.

python scripts/make_help_tables.py
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.comfy_stub import Schema, Socket, read_schemas

PAGES = REPOSITORY / "web" / "docs"
LOCALES = REPOSITORY / "locales"
Row = tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """The words of the tables."""

    code: str
    inputs: Row
    outputs: Row
    optional: str
    any_text: str
    step: str
    files: str
    first_file: str
    list: str
    comma: str


LANGUAGES = (
    Language(
        "en",
        ("Input", "Type", "Default", "Values", "Description"),
        ("Output", "Type", "Description"),
        optional="optional",
        any_text="any text",
        step="step",
        files="files in `{}`",
        first_file="first file",
        list=" (list)",
        comma=", ",
    ),
    Language(
        "ja",
        ("入力", "型", "初期値", "値", "説明"),
        ("出力", "型", "説明"),
        optional="任意",
        any_text="任意のテキスト",
        step="刻み",
        files="`{}` のファイル",
        first_file="最初のファイル",
        list="（リスト）",
        comma="、",
    ),
    Language(
        "zh",
        ("输入", "类型", "默认值", "取值", "说明"),
        ("输出", "类型", "说明"),
        optional="可选",
        any_text="任意文本",
        step="步长",
        files="`{}` 中的文件",
        first_file="第一个文件",
        list="（列表）",
        comma="、",
    ),
)


def page_path(node: str, language: str) -> Path:
    """Returns where ComfyUI looks for a help page."""
    return PAGES / (f"{node}.md" if language == "en" else f"{node}/{language}.md")


def read_texts(schema: Schema, language: str) -> dict[str, Any]:
    """Returns a node's texts in the layout of nodeDefs.json."""
    if language != "en":
        return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))[schema.node_id]

    def texts(socket: Socket) -> dict[str, str]:
        return {"name": socket.options.get("display_name", socket.id), "tooltip": socket.options["tooltip"]}

    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {socket.id: texts(socket) for socket in schema.inputs},
        "outputs": {str(number): texts(socket) for number, socket in enumerate(schema.outputs)},
    }


def update_page(page: str, schema: Schema, language: Language) -> str:
    """Returns a help page with the title and the tables that the node's texts give."""
    texts = read_texts(schema, language.code)
    name = texts["display_name"]
    title = name if language.code == "en" else f"{name}（{schema.display_name}）"
    page = re.sub(r"\A# .*", lambda _: f"# {_escape(title)}", page)
    page = _replace(page, "inputs", [language.inputs, *_input_rows(schema, texts, language)])
    return _replace(page, "outputs", [language.outputs, *_output_rows(schema, texts, language)])


def _replace(page: str, name: str, rows: list[Row]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    table = "\n".join([head, "|" + "---|" * len(rows[0]), *body])
    page, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
        lambda match: f"{match[1]}\n{table}\n\n{match[2]}",
        page,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(
            f"The page has {count} places for the table of {name}. Mark one: <!-- {name} --> <!-- /{name} -->"
        )
    return page


def _input_rows(schema: Schema, texts: dict[str, Any], language: Language) -> Iterator[Row]:
    """Yields a row for each group of inputs that differ in their names only."""
    groups: dict[Row, list[str]] = {}
    for socket in schema.ordered_inputs():
        text = texts["inputs"][socket.id]
        cells = (socket.type, _default(socket, language), _values(socket, language), _escape(text["tooltip"]))
        groups.setdefault(cells, []).append(_name(socket.id, text["name"]))
    for cells, names in groups.items():
        yield (language.comma.join(names), *cells)


def _output_rows(schema: Schema, texts: dict[str, Any], language: Language) -> Iterator[Row]:
    for number, socket in enumerate(schema.outputs):
        text = texts["outputs"][str(number)]
        kind = socket.type + (language.list if socket.options.get("is_output_list") else "")
        yield _name(socket.options["display_name"], text["name"]), kind, _escape(text["tooltip"])


def _name(id: str, shown: str) -> str:
    return f"`{id}`" if shown == id else f"`{id}` {_escape(shown)}"


def _default(socket: Socket, language: Language) -> str:
    value = socket.options.get("default", next(iter(socket.options.get("options", [])), ""))
    if _is_file(value):
        return language.first_file
    return "–" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(socket: Socket, language: Language) -> str:
    options = socket.options
    if socket.type in ("INT", "FLOAT"):
        low, high, step = (_number(options[key]) for key in ("min", "max", "step"))
        return f"{low} – {high}{language.comma}{language.step} {step}"
    if socket.type == "COMBO":
        shown = [
            language.files.format(value.rpartition("/")[0]) if _is_file(value) else f"`{value}`"
            for value in options["options"]
        ]
        return language.comma.join(dict.fromkeys(shown))
    words = {"STRING": language.any_text, "BOOLEAN": language.comma.join(("`true`", "`false`"))}
    return words.get(socket.type, language.optional if options.get("optional") else "–")


def _number(value: int | float) -> str:
    """Writes all digits of an integer, and six of a fraction."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _is_file(value: Any) -> bool:
    """Tells whether a value is one of the names that the stub of folder_paths lists."""
    return str(value).startswith("models/")


def _escape(text: str) -> str:
    return text.replace("*", r"\*").replace("|", r"\|")


def main() -> None:
    """Update every page."""
    for node, schema in read_schemas().items():
        for language in LANGUAGES:
            path = page_path(node, language.code)
            path.write_text(update_page(path.read_text(encoding="utf-8"), schema, language), encoding="utf-8")


if __name__ == "__main__":
    main()
