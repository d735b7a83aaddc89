"""The scene attributes that the miniature knows, and the forty prompts of Table 7 on the miniature."""

from __future__ import annotations

from dataclasses import dataclass

JOBS = (
    "firefighter",
    "cowboy",
    "chef",
    "racer",
    "king",
    "scientist",
    "tennis player",
    "dj",
    "knight",
    "pilot",
)  # of Table 7
LOCATIONS = (  # of Table 7, in words that CLIP has whole tokens for
    "at the great wall of china",
    "exploring ruins in peru",
    "sailing near the sydney opera house",
    "in the streets of rome",
    "at the grand canyon in sunset",
    "enjoying cherry blossoms in tokyo",
    "on a boat in venice",
    "at the taj mahal in india",
    "at mount everest base camp",
    "in front of niagara falls",
)
PLACES = (
    *LOCATIONS,
    "surrounded by tall books",
    "running in a meadow",
    "walking in a city",
    "playing music on a stage",
)
EXPRESSIONS = (
    "smiling warmly",
    "looking shocked",
    "looking angry",
    "looking sad",
    "looking sleepy",
    "giving a wink",
)
NEUTRAL = "neutral"


@dataclass(frozen=True)
class SceneAttributes:
    """What a prompt asks for, or an image shows; "" or "neutral" if that is nothing."""

    expression: str = NEUTRAL
    job: str = ""
    place: str = ""


KINDS: dict[str, tuple[str, ...]] = {
    "job": ("", *JOBS),
    "place": ("", *PLACES),
    "expression": (NEUTRAL, *EXPRESSIONS),
}

# Ten jobs, ten locations, four more places, six expressions, and ten that combine two or three of them.
PROMPTS = (
    *(SceneAttributes(job=job) for job in JOBS),
    *(SceneAttributes(place=place) for place in PLACES),
    *(SceneAttributes(expression=expression) for expression in EXPRESSIONS),
    SceneAttributes(job="chef", place=LOCATIONS[3]),
    SceneAttributes(job="pilot", place=LOCATIONS[8]),
    SceneAttributes(job="king", place=LOCATIONS[7]),
    SceneAttributes(job="knight", place=LOCATIONS[0]),
    SceneAttributes(job="dj", expression="smiling warmly"),
    SceneAttributes(job="cowboy", expression="looking angry"),
    SceneAttributes(place=LOCATIONS[9], expression="looking shocked"),
    SceneAttributes(place=LOCATIONS[5], expression="smiling warmly"),
    SceneAttributes(job="firefighter", place="walking in a city", expression="looking sad"),
    SceneAttributes(job="scientist", place="surrounded by tall books", expression="looking sleepy"),
)


def describe(facts: SceneAttributes, subject: str, opening: str = "a photo of") -> str:
    """Write a prompt in the manner of Table 7.

    Args:
        facts: what it asks for.
        subject: "a person", a name, "S*".
        opening: of the sentence.

    Returns:
        For example "a photo of S* as a chef in the streets of rome looking angry".
    """
    parts = [f"{opening} {subject}"]
    if facts.job:
        parts.append(f"as a {facts.job}")
    if facts.place:
        parts.append(facts.place)
    if facts.expression != NEUTRAL:
        parts.append(facts.expression)
    return " ".join(parts)


def text_accuracy(asked: SceneAttributes, seen: SceneAttributes) -> float:
    """Compute the share of what a prompt asks for that is seen; 1 where it asks for nothing."""
    wanted = [
        getattr(asked, kind) == getattr(seen, kind)
        for kind, names in KINDS.items()
        if getattr(asked, kind) != names[0]
    ]
    return sum(wanted) / len(wanted) if wanted else 1.0
