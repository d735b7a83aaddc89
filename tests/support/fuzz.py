"""Random legal graphs: nodes, widget values and links such as /object_info allows, always with something to
show at the end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator
from typing import Any

Prompt = dict[str, Any]
ObjectInfo = dict[str, Any]

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
LARGEST = 512  # of an integer: sizes and counts beyond are legal too, and cost minutes a prompt
DEEPEST = 4  # nodes, from which on the graph grows by no more of the tested nodes than it must
LARGE = 16  # nodes, from which on it grows by no more nodes at all than it must

TEXTS = (
    "",
    " ",
    "S*",
    "A photo of S* as a chef",
    "A photo of a person",
    "(S*:1.3) and ((S*)) [S*]",
    "S1* and S2* on a bench",
    "s*, S*; S*!",
    "classS*",
    "A photo of S* " + "in a very long prompt about many things, " * 15,
    "word " * 70 + "S*",
    "S* " * 45,
    "S* als Köchin, 写真の人, 한국어, עברית, 👩🏽‍🚀 \u200b\ufeff",
    "embedding:gone S*",
    "(S*:nan) (S*:1e9) (S*:-2)",
    "((((S*",
    "line\nbreaks\tand\x07controls S*",
    "../../S*",
    "friends/alice",
    "C:\\alice",
    "CON",
    "x" * 300,
    "S1*",
    "{a|b} S* // no comment",
    "%date:yyyy% S* %KSampler.seed%",
)


class Maker:
    """Draws graphs of the tested nodes and their helpers."""

    def __init__(
        self,
        object_info: ObjectInfo,
        tested: Collection[str],
        helpers: dict[str, dict[str, Any]],
        base: Prompt,
    ) -> None:
        """Takes /object_info of all the nodes, those to test, others with the widget values they keep, and
        what every graph begins with.
        """
        self.info = {kind: info for kind, info in object_info.items() if not _is_empty(info)}
        self.tested, self.helpers, self.base = (
            [kind for kind in sorted(tested) if kind in self.info],
            helpers,
            base,
        )
        self.usable = [*self.tested, *sorted(helpers)]
        self.lists = {kind for kind, info in self.info.items() if any(info["output_is_list"])}

    def graph(self, target: str, seed: str) -> Prompt:
        """Returns a graph through the node `target`; the same seed gives the same graph."""
        return _Graph(self, random.Random(seed)).through(target)


class _Graph:
    """One graph in the making."""

    def __init__(self, maker: Maker, rng: random.Random) -> None:
        self.maker, self.rng, self.depth = maker, rng, 0
        self.prompt: Prompt = {
            name: {"class_type": node["class_type"], "inputs": dict(node["inputs"])}
            for name, node in maker.base.items()
        }

    def through(self, target: str) -> Prompt:
        """Adds `target` with all it needs, and then what shows its outputs."""
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            name = self.add(target, {})
            while name and not self.maker.info[self.kind(name)]["output_node"]:
                name = self.consume(name)
        return self.prompt

    def usable(self) -> list[str]:
        """Returns the nodes to choose from; a second list would multiply what is run after the first."""
        listed = any(self.kind(name) in self.maker.lists for name in self.prompt)
        return [kind for kind in self.maker.usable if not (listed and kind in self.maker.lists)]

    def kind(self, name: str) -> str:
        return str(self.prompt[name]["class_type"])

    def consume(self, name: str) -> str:
        """Adds a node that takes one of a node's outputs."""
        self.depth += 1
        slot = self.rng.randrange(len(self.maker.info[self.kind(name)]["output"]))
        wanted = self.maker.info[self.kind(name)]["output"][slot]
        takers = [
            (kind, port)
            for kind in self.usable()
            for port, spec, _ in _inputs(self.maker.info[kind])
            if _fits(wanted, spec)
        ]
        typed = [(kind, port) for kind, port in takers if not self.accepts_all(kind, port)] or takers
        helpers = [(kind, port) for kind, port in typed if kind in self.maker.helpers]
        kind, port = self.rng.choice(
            helpers if helpers and (self.depth > DEEPEST or self.rng.random() < 0.6) else typed
        )
        return self.add(kind, {port: [name, slot]})

    def accepts_all(self, kind: str, port: str) -> bool:
        return any(spec[0] == "*" for name, spec, _ in _inputs(self.maker.info[kind]) if name == port)

    def add(self, kind: str, inputs: dict[str, Any]) -> str:
        """Adds a node, with whatever it needs before it."""
        self.depth += 1
        kept = self.maker.helpers.get(kind)
        for port, spec, required in _inputs(self.maker.info[kind]):
            if port in inputs:
                continue
            if _is_widget(spec):
                if kept is not None and port in kept:
                    inputs[port] = (
                        self.rng.choice(kept[port]) if isinstance(kept[port], tuple) else kept[port]
                    )
                elif required or self.rng.random() < 0.8:
                    inputs[port] = self.widget(spec, kept is not None)
            elif (required or (self.depth < LARGE and self.rng.random() < 0.5)) and (
                link := self.source(spec[0])
            ):
                inputs[port] = link
        name = f"{len(self.prompt)} {kind}"
        self.prompt[name] = {"class_type": kind, "inputs": inputs}
        return name

    def found(self, wanted: str) -> list[list[Any]]:
        """Returns the outputs of a type that are there."""
        return [
            [name, slot]
            for name in self.prompt
            for slot in _outputs(self.maker.info[self.kind(name)], wanted)
        ]

    def source(self, wanted: str) -> list[Any] | None:
        """Returns a link to an output of a type: of a node that is there, or of a new one.

        None where no node has such an output.
        """
        there = self.found(wanted)
        makers = [(kind, slot) for kind in self.usable() for slot in _outputs(self.maker.info[kind], wanted)]
        loaded = all(_is_loader(self.maker.info[kind]) for kind, _ in makers)
        if there and (not makers or self.depth > DEEPEST or self.rng.random() < (0.9 if loaded else 0.4)):
            return self.rng.choice(there)
        if not makers:
            return None
        if self.depth > LARGE:  # what needs the fewest new nodes
            kind, slot = min(
                makers,
                key=lambda maker: sum(not self.found(need) for need in _needs(self.maker.info[maker[0]])),
            )
            return [self.add(kind, {}), slot]
        ours = [(kind, slot) for kind, slot in makers if kind not in self.maker.helpers]
        kind, slot = self.rng.choice(ours if ours and self.rng.random() < 0.7 else makers)
        return [self.add(kind, {}), slot]

    def widget(self, spec: list[Any], usual: bool) -> Any:
        """Returns a legal value: most often the one that a new node shows."""
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        choices = _choices(spec)
        fallback = choices[0] if choices else {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}[kind]
        if usual or self.rng.random() < 0.93:
            return options.get("default", fallback)
        if choices:
            return self.rng.choice(choices)
        if kind == "STRING":
            there = self.found("STRING")
            return self.rng.choice(there) if there and self.rng.random() < 0.2 else self.rng.choice(TEXTS)
        if kind == "BOOLEAN":
            return self.rng.random() < 0.5
        return self.number(kind, options)

    def number(self, kind: str, options: dict[str, Any]) -> float | int:
        """Returns an end of the range, or a step in between."""
        low, step = options.get("min", 0), options.get("step", 1)
        high = min(options.get("max", LARGEST), max(LARGEST, low))
        steps = math.floor((high - low) / step + 1e-9)
        value = low + step * self.rng.choice(
            (0, steps, self.rng.randint(0, steps), self.rng.randint(0, min(steps, 4)))
        )
        return round(value) if kind == "INT" else min(round(value, 6), high)


def _inputs(info: dict[str, Any]) -> Iterator[tuple[str, list[Any], bool]]:
    """Yields (name, specification, required) of each input."""
    for section in ("required", "optional"):
        yield from (
            (name, spec, section == "required") for name, spec in info["input"].get(section, {}).items()
        )


def _outputs(info: dict[str, Any], wanted: str) -> list[int]:
    """Returns the outputs that fit an input of type `wanted`, which may name several types.

    A wildcard fits nothing in particular.
    """
    return (
        [slot for slot, kind in enumerate(info["output"]) if set(kind.split(",")) & set(wanted.split(","))]
        if isinstance(wanted, str)
        else []
    )


def _fits(wanted: str, spec: list[Any]) -> bool:
    return (
        isinstance(spec[0], str)
        and not _is_widget(spec)
        and (spec[0] == "*" or bool(set(wanted.split(",")) & set(spec[0].split(","))))
    )


def _is_widget(spec: list[Any]) -> bool:
    return isinstance(spec[0], list) or (
        spec[0] in WIDGETS and not (len(spec) > 1 and spec[1].get("forceInput"))
    )


def _choices(spec: list[Any]) -> list[Any]:
    if isinstance(spec[0], list):
        return spec[0]
    return spec[1].get("options", []) if spec[0] == "COMBO" else []


def _needs(info: dict[str, Any]) -> list[str]:
    return [spec[0] for _, spec, required in _inputs(info) if required and not _is_widget(spec)]


def _is_loader(info: dict[str, Any]) -> bool:
    return all(_is_widget(spec) for _, spec, _ in _inputs(info))


def _is_empty(info: dict[str, Any]) -> bool:
    """Tells whether a node cannot be used legally yet, as a required choice of files has none."""
    return any(
        required and (isinstance(spec[0], list) or spec[0] == "COMBO") and not _choices(spec)
        for _, spec, required in _inputs(info)
    )
