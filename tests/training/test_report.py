"""Results on disk, and the pages of a report, checked against hand-made scores and an HTML parser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face2diffusion.f2d.checkpoint import save
from face2diffusion.f2d.image import save_png
from face2diffusion.f2d.networks.msid import MSIDConfig, MSIDEncoder
from face2diffusion.training.config import ReportConfig
from face2diffusion.training.evaluation.protocol import SEED_RULE, Protocol, Slot
from face2diffusion.training.evaluation.results import Results
from face2diffusion.training.report.checks import list_deviations
from face2diffusion.training.report.comparison import Difference
from face2diffusion.training.report.evaluation_report import write_evaluation_report
from PIL import Image
from support.identities import write_folders

METRICS = ("AdaFace", "SphereFace", "FaceNet", "CLIP", "dCLIP", "SigLIP")
HALF = dict.fromkeys(METRICS, 0.5)
PROMPTS = (2, 35)  # a chef, a location
GAPS: dict[str, Any] = {"missing": [], "broken": {}, "unexpected": [], "skipped": {}}

Make = Callable[..., Path]


def by_hand(slot: Slot) -> dict[str, float]:
    """Alice's first image has 0.2 and 0.8 in turns, her second no face; all of Bob's have 0.5."""
    if slot.identity == "bob":
        return dict(HALF)
    scores = [0.2, 0.8] * 3 if slot.seed == 0 else [0, 0, 0, 0.5, 0.5, 0.5]
    return dict(zip(METRICS, scores, strict=True))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes results of a method with the scores of a function."""

    def write(
        method: str = "F2D", scores: Callable[[Slot], dict[str, float]] = by_hand, **changes: Any
    ) -> Path:
        people = changes.pop("identities", ("alice", "bob"))
        protocol = Protocol(people, changes.pop("prompts", PROMPTS), 2, 32)
        fields: dict[str, Any] = {
            "scorer": {"AdaFace": "ir101, SHA-256 12ab"},
            "faces": {"alice": "1", "bob": "2"},
            "metrics": METRICS,
            "gaps": GAPS,
            "folders": {"images": "images", "face:alice": "faces/alice.png"},
            "details": {
                "config": {},
                "machine": {"device": "NVIDIA A100", "torch": "2.4"},
                "generation": None,
            },
        }
        images = changes.pop("images", None) or tuple((slot, scores(slot)) for slot in protocol.slots())
        path = tmp_path / f"{method}.json"
        Results(method, protocol, images=images, **{**fields, **changes}).save(path)
        return path

    return write


def pages(*results: Path, **settings: Any) -> tuple[str, str]:
    """The Markdown and the HTML page of some results."""
    out = results[0].parent / "report"
    settings = {"draws": 200, **settings}
    page = write_evaluation_report(
        ReportConfig(results=tuple(map(str, results)), out=str(out), **settings), lambda message: None
    )
    return (out / "report.md").read_text(), page.read_text()


def row(page: str, start: str) -> list[str]:
    """The cells of the first Markdown row whose name starts so."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


class Links(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href")]
        self.ids += [value or "" for name, value in attributes if name == "id"]


def test_means_of_hand_made_scores(make: Make) -> None:
    """Alice: hMean 6 / (3/0.2 + 3/0.8) = 0.32, gMean sqrt(0.2 * 0.8) = 0.4, 0 without a face; Bob: 0.5."""
    markdown, _ = pages(make())
    cells = row(markdown, "F2D (measured)")
    assert [float(cell.split()[0]) for cell in cells[1:]] == pytest.approx(
        [
            (0.1 + 0.5) / 2,
            (0.4 + 0.5) / 2,
            0.3,
            (0.65 + 0.5) / 2,
            (0.35 + 0.5) / 2,
            0.575,
            (0.16 + 0.5) / 2,
            (0.2 + 0.5) / 2,
        ]
    )
    assert cells[7] == r"0.3300 \[0.0000–1.0000\]"  # two identities say nothing: t is 12.7
    assert row(markdown, "F2D |")[1:5] == ["8 of 8", "2", "2", "0"]


def test_upper_bound_and_locations(make: Make) -> None:
    markdown, _ = pages(make())
    part = markdown.partition("## Figure 7")[2]
    assert [float(cell.split()[0]) for cell in row(part, "F2D |")[1:]] == pytest.approx(
        [0.33, (0.32 + 0.5) / 2]
    )
    assert row(markdown.partition("## Section 5")[2], "F2D")[1].startswith("0.3000")

    def only_there(slot: Slot) -> dict[str, float]:
        return HALF | {"AdaFace": 0.9 if slot.prompt == 35 else 0.1}

    assert row(pages(make("other", only_there))[0].partition("## Section 5")[2], "other")[1].startswith(
        "0.9000"
    )


def test_published_rows_are_all_there_and_measured_ones_stand_below_their_own(make: Make) -> None:
    markdown, html = pages(
        make("ELITE"), make("F2D"), make("My <b>net</b>"), make("reconstruction"), make("no-expression")
    )
    table = markdown.partition("## Tables 1 and 6")[2].partition("## Differences")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert names == [
        r"*Subject-driven (published, Table 1)*",
        "TextualInversion", "DreamBooth", "CustomDiffusion", "Perfusion", "E4T", "CelebBasis",
        r"*Subject-agnostic (published, Table 1)*",
        "FastComposer", "ELITE", "ELITE (measured)", "DreamIdentity (the paper's own version)",
        "Face2Diffusion", "F2D (measured)",
        r"*More recent methods (published, Table 6)*",
        "OFT", "DVAR",
        r"*Measured, variants of Tables 3 to 5*", "reconstruction (measured)", "no-expression (measured)",
        r"*Measured, not in the paper*", r"My \<b\>net\</b\> (measured)",
    ]  # fmt: skip
    assert row(table, "Face2Diffusion")[1:3] == ["0.3143 (3)", "0.4215 (3)"]
    assert row(table, "CustomDiffusion")[1] == "**0.4537** (1)"
    ablations = markdown.partition("## Tables 3 to 5")[2].partition("## Section 5")[0]
    lines = [line.split("|")[1].strip() for line in ablations.splitlines() if line.startswith("| ")]
    assert lines[lines.index("Reconstruction") + 1] == "reconstruction (measured)"
    assert lines[lines.index("w/o expression guidance") + 1] == "no-expression (measured)"
    assert lines.count("F2D (measured)") == 3
    assert "My &lt;b&gt;net&lt;/b&gt;" in html and "<b>net" not in html


def test_the_conflicting_column_titles_are_explained(make: Make) -> None:
    markdown, _ = pages(make())
    assert "0.2252, is what Table 1 calls gMean" in markdown
    assert row(markdown.partition("Table 3.")[2], "ArcFace |")[3:] == ["–", "0.2135"]


def test_measured_methods_are_ranked_among_themselves(make: Make) -> None:
    markdown, html = pages(
        make("A", lambda slot: HALF),
        make("B", lambda slot: HALF | {"CLIP": 0.6}),
        make("C", lambda slot: HALF | {"CLIP": 0.4}),
    )
    assert [row(markdown, f"{name} (measured)")[4].split(r" \[")[0] for name in "ABC"] == [
        "0.5000 (2)",
        "**0.6000** (1)",
        "0.4000 (3)",
    ]
    assert '<sup title="rank 1">1</sup>' in html
    assert "(1)" not in row(pages(make("A"))[0], "A (measured)")[4]  # alone, it is not the best of anything


def noisy(shift: float = 0.0, seed: int = 0) -> Callable[[Slot], dict[str, float]]:
    """Scores around 0.5 + shift, with each face's noise shared by all methods and a little of their own."""

    def scores(slot: Slot) -> dict[str, float]:
        face = np.random.default_rng(int(slot.identity)).normal(0, 0.1)
        own = np.random.default_rng([int(slot.identity), slot.prompt, slot.seed, seed]).normal(0, 0.02)
        return dict.fromkeys(METRICS, float(np.clip(0.5 + shift + face + own, 0, 1)))

    return scores


PEOPLE = tuple(map(str, range(12)))


def test_differences_are_paired_and_decide_the_ranks(make: Make) -> None:
    """Faces vary by 0.1, so the methods' own intervals overlap; the paired difference of 0.03 is clear."""
    wide = {"identities": PEOPLE, "faces": dict.fromkeys(PEOPLE, "1")}
    markdown, _ = pages(
        make("A", noisy(0.03, 1), **wide), make("B", noisy(0.0, 2), **wide), make("C", noisy(0.0, 3), **wide)
    )
    table = markdown.partition("## Differences")[2]
    value, low, high = re.findall(r"[+-]\d\.\d+", row(table, "A − B")[1])
    assert 0 < float(low) < 0.03 < float(high) and r"\*" in row(table, "A − B")[1]
    assert r"\*" not in row(table, "B − C")[1]
    assert "Of 24 differences, about 1.2 would have a star by chance" in markdown
    assert [re.findall(r"\((\d)\)", row(markdown, f"{name} (measured)")[1]) for name in "ABC"] == [
        ["1"], ["2"], ["2"],
    ]  # fmt: skip


def test_equal_methods_have_no_ranks(make: Make) -> None:
    wide = {"identities": PEOPLE, "faces": dict.fromkeys(PEOPLE, "1")}
    markdown, _ = pages(make("A", noisy(seed=1), **wide), make("B", noisy(seed=2), **wide))
    marked = [cell for cell in row(markdown, "A − B")[1:] if r"\*" in cell]
    ranked = [cell for cell in row(markdown, "A (measured)")[1:] if re.search(r"\(\d\)", cell)]
    assert len(marked) == len(ranked) <= 2


def test_a_method_that_loses_its_bad_images_is_not_ranked(make: Make) -> None:
    """A copy of F2D without its images of hMean 0 has higher means, but no rank; its coverage is shown."""
    wide = {"identities": PEOPLE, "faces": dict.fromkeys(PEOPLE, "1")}

    def mostly_zero(slot: Slot) -> dict[str, float]:
        scores = noisy()(slot)
        return scores if slot.seed == 0 and int(slot.identity) < 4 else {**scores, "AdaFace": 0.0}

    f2d = make("F2D", mostly_zero, **wide)
    kept = [pair for pair in Results.load(f2d).images if pair[1]["AdaFace"] > 0]
    gone = [slot.name for slot, scores in Results.load(f2d).images if not scores["AdaFace"]]
    copy = make("copy", images=tuple(kept), gaps={**GAPS, "missing": gone}, **wide)
    other = make("other", lambda slot: mostly_zero(slot) | {"CLIP": 0.2}, **wide)
    markdown, html = pages(f2d, copy, other)
    attack, own = row(markdown, "copy (measured)"), row(markdown, "F2D (measured)")
    assert float(attack[7].split()[0]) > 2 * float(own[7].split()[0].strip("*"))
    assert "8 of 48" in attack[7] and not re.search(r"\(\d\)", " ".join(attack[1:]))
    assert "(1)" in own[4]  # F2D and other have all images, so they are ranked
    assert row(markdown, "F2D − copy")[7] == r"refused \[8 of 48\]"
    for page in (markdown, html):
        assert "F2D and copy share 8 of 48 images, 40 has only F2D, 0 only copy" in page


def test_a_method_that_loses_base_images_of_bad_faces_is_not_ranked_by_hmean(make: Make) -> None:
    wide = {"identities": PEOPLE, "faces": dict.fromkeys(PEOPLE, "1")}

    def without_base(slot: Slot) -> dict[str, float]:
        scores = noisy(0.1, 1)(slot)
        return scores if int(slot.identity) < 6 else {k: v for k, v in scores.items() if k != "dCLIP"}

    markdown, _ = pages(make("A", noisy(), **wide), make("B", without_base, **wide))
    cells = row(markdown, "A − B")
    assert cells[5].startswith("refused") and cells[7].startswith("refused")
    assert r"\*" in cells[1]


@pytest.mark.parametrize(
    ("only_first", "only_second", "refused"), [(0, 0, False), (3, 2, False), (7, 0, True), (40, 35, True)]
)
def test_uneven_or_many_gaps_are_refused(only_first: int, only_second: int, refused: bool) -> None:
    shared = 1000 - only_first - only_second
    assert Difference("A", "B", None, shared, only_first, only_second, 1000).refused == refused


def test_uneven_gaps_have_mcnemars_probability() -> None:
    assert Difference("A", "B", None, 90, 8, 2, 100).uneven == pytest.approx(0.109375)
    assert Difference("A", "B", None, 100, 0, 0, 100).uneven == 1


def test_zeros_are_accounted_for(make: Make) -> None:
    """Of 8 images: 2 without a face, 1 with a face and a cosine of 0 in AdaFace, 4 with dCLIP 0."""

    def scores(slot: Slot) -> dict[str, float]:
        if slot.identity == "alice" and slot.seed:
            return HALF | dict.fromkeys(METRICS[:3], 0.0)
        lone = {"AdaFace": 0.0} if slot == Slot("bob", 2, 0) else {}
        return HALF | lone | ({"dCLIP": 0.0} if slot.prompt == 2 else {})

    without = frozenset(Slot("alice", prompt, 1) for prompt in PROMPTS)
    path = make("F2D", scores, without_face=without)
    found = Results.load(path)
    assert found.without_face == without and found.faceless.sum() == 2
    part = pages(path)[0].partition("## Images that score zero")[2]
    cells = row(part, "F2D")[1:]
    assert cells[:4] == ["25.0 %", "12.5 %", "0.0 %", "0.0 %"]
    assert cells[4:] == ["0.0 %", "37.5 %", "0.0 %", "62.5 %"]
    old = pages(make("old", scores))[0].partition("## Images that score zero")[2]
    assert Results.load(make("old", scores)).without_face is None  # files of older versions load
    assert row(old, "old")[1:3] == ["–", "37.5 %"]


def test_rows_off_the_papers_protocol_are_labeled(make: Make) -> None:
    generation = {"steps": 10, "cfg": 7.0, "sampler": "Euler ancestral", "subject_from": 0.2}
    details = {"config": {}, "machine": None, "generation": generation}
    markdown, html = pages(make("F2D", details=details))
    for told in (
        "F2D is off the paper's protocol: 2 identities, not 100", "2 prompts, not 40",
        "2 images per prompt, not 4", "32 px, not 512", "steps 10, not 30", "subject from 0.2, not 0.0",
        "share the seeds 0, 1, 2, ... of an older version",
    ):  # fmt: skip
        assert told in markdown and told.replace("'", "&#x27;") in html


def test_the_papers_protocol_has_no_label(make: Make) -> None:
    protocol = Protocol(tuple(map(str, range(100))))
    generation = {"steps": 30, "cfg": 7.0, "sampler": "Euler ancestral", "seeds": SEED_RULE}
    results = Results.load(make("reconstruction-dsc"))
    on = replace(results, protocol=protocol, details={"generation": {**generation, "subject_from": 0.2}})
    assert list_deviations(on) == []
    assert list_deviations(replace(on, method="F2D")) == ["subject from 0.2, not 0.0"]
    assert list_deviations(replace(on, details={})) == []  # images from elsewhere


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scorer": {"AdaFace": "ir50"}}, "evaluators"),
        ({"faces": {"alice": "1", "bob": "3"}}, "faces"),
        ({"prompts": (2, 34)}, "prompts"),
        ({"metrics": METRICS[:3]}, "metrics"),
    ],
)
def test_methods_that_were_scored_otherwise_are_not_ranked(make: Make, change: dict, named: str) -> None:
    markdown, html = pages(make("A"), make("B", **change))
    for page in (markdown, html):
        assert f"B was scored with other {named} than A." in page
    assert not [cell for name in "AB" for cell in row(markdown, f"{name} (measured)") if "(1)" in cell]


def test_gaps_are_listed_and_never_zero(make: Make) -> None:
    def without_base(slot: Slot) -> dict[str, float]:
        return {name: 0.5 for name in METRICS if slot.identity == "bob" or name != "dCLIP"}

    gaps = {
        "missing": ["alice/base/0.png"],
        "broken": {"bob/2/1.png": "Expected 32x32 px, got 16x16 px"},
        "unexpected": ["carol/0/0.png"],
        "skipped": {"dan": "Expected a face"},
    }
    markdown, html = pages(make("A", without_base, gaps=gaps))
    assert [cell.split()[0] for cell in row(markdown, "A (measured)")[1:]] == ["0.5000"] * 8
    for page in (markdown, html):
        assert "4 image(s) of A lack a metric" in page
        for told in (
            "alice/base/0.png",
            "Expected 32x32 px, got 16x16 px",
            "carol/0/0.png",
            "dan (Expected a face)",
        ):
            assert told in page
    partly = pages(make("A", lambda slot: {"CLIP": 0.3}))[0]
    assert (
        "A has no AdaFace, SphereFace, FaceNet, dCLIP, SigLIP, so it has neither hMean nor gMean." in partly
    )
    assert row(partly, "A (measured)")[1:] == ["–", "–", "–", r"0.3000 \[0.3000–0.3000\]", "–", "–", "–", "–"]


def test_costs(make: Make) -> None:
    costs = {"parameters": 12_000_832, "encoding_seconds": 0.00712, "fid": 70.123}
    table = pages(make("A", costs=costs), make("B", costs={"parameters": 1024}))[0].partition("## Table 2")[2]
    own = row(table, "A (measured, NVIDIA A100)")[1:]
    assert own == ["70.12", "1.20 × 10⁷ (2)", "0.00712 s"]  # a lone value has no rank
    assert row(table, "B")[1:] == ["–", "**1024** (1)", "–"]
    assert row(table, "Face2Diffusion")[1:] == ["**69.33** (1)", "1.20 × 10⁷ (2)", "**0.006 s** (1)"]


@pytest.mark.parametrize(
    ("change", "ranked"),
    [({}, True), ({"real_sha256": "ef"}, False), ({"generated": 7}, False), (None, False)],
)
def test_fids_are_ranked_if_they_depend_on_the_same(make: Make, change: dict | None, ranked: bool) -> None:
    """Of the same real images and numbers of images; older files do not say, so theirs have no rank."""
    fid = {
        "generated": 8, "real": 40, "real_sha256": "cd" * 32, "words": ["person", "man"], "size": 32,
        "network": "inception.pth",
    }  # fmt: skip

    def details(found: dict | None) -> dict[str, Any]:
        return {"config": {}, "machine": None, "generation": None, **({"fid": found} if found else {})}

    other = None if change is None else {**fid, **change}
    first = make("A", costs={"fid": 70.0}, details=details(fid if other else None))
    markdown, _ = pages(first, make("B", costs={"fid": 60.0}, details=details(other)))
    table = markdown.partition("## Table 2")[2]
    cells = [row(table, f"{name} (measured, an unknown machine)")[1] for name in "AB"]
    assert cells == (["70.00 (2)", "**60.00** (1)"] if ranked else ["70.00", "60.00"])
    if other:
        assert (
            "8 generated images against 40 real ones whose caption has one of the words person, man" in table
        )


@pytest.mark.parametrize(("machines", "ranked"), [(("H100", "H100"), True), (("H100", "A100"), False)])
def test_times_are_ranked_on_one_machine(make: Make, machines: tuple[str, str], ranked: bool) -> None:
    results = [
        make(name, costs={"encoding_seconds": seconds}, details={"machine": {"device": machine}})
        for name, seconds, machine in zip("AB", (0.5, 140.0), machines, strict=True)
    ]
    table = pages(*results)[0].partition("## Table 2")[2]
    assert row(table, f"A (measured, {machines[0]})")[3] == ("**0.5 s** (1)" if ranked else "0.5 s")


def test_pages_are_self_contained_and_reproducible(make: Make, tmp_path: Path) -> None:
    results = make()
    for name in ("faces/alice.png", "images/alice/2/0.png"):
        save_png(tmp_path / name, np.full((32, 32, 3), 90, np.uint8))
    markdown, html = pages(results)
    links = Links(html)
    assert links.found and all(link.startswith(("#", "data:")) for link in links.found)
    assert {link[1:] for link in links.found if link.startswith("#")} <= set(links.ids)
    named = [part.partition(")")[0] for part in markdown.split("](")[1:]]
    assert named == ["trade-off.svg", "upper-bound.svg", "images-0.jpg"]
    assert all((tmp_path / "report" / name).is_file() for name in named)
    sheet = Image.open(tmp_path / "report/images-0.jpg")
    assert sheet.width > sheet.height  # a face and two prompts of one method
    assert (markdown, html) == pages(results)


def test_tables_do_not_need_the_images(make: Make) -> None:
    markdown, _ = pages(make())
    assert "The images are not on this machine" in markdown


def test_encoders_are_verified_or_read(make: Make, tmp_path: Path) -> None:
    config = MSIDConfig(
        image_size=16, patch_size=8, embed_dim=32, depth=2, heads=2, depths=(1, 2), normed=(2,)
    )
    torch.manual_seed(0)
    save(tmp_path / "msid.safetensors", MSIDEncoder(config).state_dict(), "msid", config)
    faces = write_folders(tmp_path / "people", identities=5, photos=3)
    markdown, html = pages(make(), encoders=(str(tmp_path / "msid.safetensors"),), triplets=str(faces))
    table = markdown.partition("## Figure 4")[2]
    found = json.loads((tmp_path / "report/encoder-0/verification.json").read_text())
    depth, auc, triplets = row(table, "msid.safetensors (measured)")[1:]
    value, low, high = map(float, re.findall(r"\d+\.\d+", auc))
    assert (depth, triplets) == ("1", "5")
    assert 0 <= low <= value == round(100 * found["depths"][0]["auc"], 2) <= high <= 100
    assert row(table, "ArcFace")[1:3] == ["3", "93.99"]
    assert html.count("data:image/png") == 1
    again = pages(make(), verification=(str(tmp_path / "report/encoder-0/verification.json"),))[0]
    assert again == markdown
    for found_depth in found["depths"]:  # as in files of older versions
        del found_depth["positive"], found_depth["negative"]
    (tmp_path / "old.json").write_text(json.dumps(found))
    old = pages(make(), verification=(str(tmp_path / "old.json"),))[0].partition("## Figure 4")[2]
    assert row(old, "msid.safetensors (measured)")[2] == f"{value:.2f}"
    (tmp_path / "half.json").write_text('{"triplets": 5, "dep')
    with pytest.raises(ValueError, match=r"half\.json' is damaged or not an encoder's"):
        pages(make(), verification=(str(tmp_path / "half.json"),))


def test_results_are_read_back(make: Make) -> None:
    path = make(scores=lambda slot: {"SigLIP": 1.23456789e-6, "AdaFace": 0.0})
    found = Results.load(path)
    assert found.images[0] == (Slot("alice", 2, 0), {"SigLIP": 1.234568e-6, "AdaFace": 0.0})
    assert found.protocol == Protocol(("alice", "bob"), PROMPTS, 2, 32)
    assert sum('"picture"' in line for line in path.read_text().splitlines()) == 8  # one line per image
    before = path.read_text()
    found.save(path)
    assert path.read_text() == before


def damage(content: dict, change: str) -> Any:
    if change == "foreign":
        return {"triplets": 5}
    if change == "list":
        return []
    if change == "field":
        del content["scorer"]
    elif change == "score":
        content["pictures"][0]["AdaFace"] = 3.0
    elif change == "nan":
        content["pictures"][0]["AdaFace"] = float("nan")
    elif change == "metric":
        content["pictures"][0]["Beauty"] = 0.5
    elif change == "name":
        content["pictures"][0]["picture"] = "alice/0.png"
    elif change == "twice":
        content["pictures"][1] = content["pictures"][0]
    return content


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("foreign", "format None.*Choose a file of"),
        ("list", "format None"),
        ("field", "KeyError"),
        ("score", "alice/2/0.png has AdaFace 3.0"),
        ("nan", "has AdaFace nan"),
        ("metric", "has Beauty 0.5"),
        ("name", "not a path of the layout"),
        ("twice", "listed twice"),
    ],
)
def test_other_files_are_refused(make: Make, change: str, match: str) -> None:
    path = make()
    path.write_text(json.dumps(damage(json.loads(path.read_text()), change)))
    with pytest.raises(ValueError, match=match):
        Results.load(path)


def test_truncated_results_are_refused(make: Make) -> None:
    path = make()
    path.write_text(path.read_text()[:-200])
    with pytest.raises(ValueError, match=r"F2D\.json' is truncated or not JSON"):
        Results.load(path)


def test_invalid_settings_are_refused(make: Make, tmp_path: Path) -> None:
    one, two = make("A"), tmp_path / "two.json"
    two.write_text(one.read_text())
    with pytest.raises(ValueError, match="Two results have the method 'A'.*--method"):
        pages(one, two)
    for settings, match in (
        ({"grid_prompts": (40,)}, "--grid-prompts has no prompt 40.*0 to 39"),
        ({"draws": 0}, "--draws 0 .*at least 1"),
        ({"encoders": ("msid.pt",)}, "needs --triplets"),
    ):
        with pytest.raises(ValueError, match=match):
            pages(one, **settings)
    with pytest.raises(FileNotFoundError, match="There are no results"):
        pages(tmp_path / "none.json")
    with pytest.raises(ValueError, match="--results is missing"):
        write_evaluation_report(ReportConfig(out="x"))
