"""Scenes of the synthetic dataset: people, expressions, jobs, places and views, sampled independently.

A person is a point in a continuous space, `Person.from_vector` of a vector in [0, 1]^24. Expression, camera,
clothes and place belong to the scene. `render.py` turns a scene into an image; this file knows no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ....f2d.miniature.evaluators import PAIR_CENTERS
from ....f2d.miniature.prompts import EXPRESSIONS, JOBS, NEUTRAL, PLACES, SceneAttributes

PERSON_DIM = 24
PERSON_FEATURES = 43  # of Person.features
_BACKDROP_NAMES = (
    "wall", "ruins", "opera", "rome", "canyon", "cherry", "venice",
    "taj", "everest", "falls", "books", "meadow", "city", "stage",
)  # fmt: skip
BACKDROPS = dict(zip(PLACES, _BACKDROP_NAMES, strict=True))
# Smile, open mouth, raised brows, frown, left eye, right eye, all relative to a face at rest.
COEFFICIENTS = {
    "smiling warmly": (1.0, 0.25, 0.2, 0.0, -0.15, -0.15),
    "looking shocked": (-0.1, 0.95, 1.0, 0.0, 0.45, 0.45),
    "looking angry": (-0.7, 0.1, -0.6, 1.0, -0.2, -0.2),
    "looking sad": (-1.0, 0.0, 0.5, -0.9, -0.2, -0.2),
    "looking sleepy": (0.0, 0.0, 0.1, -0.2, -0.85, -0.85),
    "giving a wink": (0.7, 0.0, 0.2, 0.1, 0.1, -1.0),
}
EXPRESSION_DIM = 6
HAIR_COLORS = ("black", "brown", "blonde", "red", "grey", "blue", "pink", "green")
HAIR_STYLES = ("bald", "short", "parted", "bob", "long", "curly", "spiky", "bun")
BEARDS = ("none", "moustache", "goatee", "beard")
GLASSES = ("none", "round", "square")
# Each word of a caption is one token of CLIP.
_STYLE_WORDS = {"short": "short", "bob": "straight", "long": "long", "curly": "curly"}
_BEARD_WORDS = {"moustache": "moustache", "goatee": "small beard", "beard": "big beard"}
OPENINGS = (
    "a photo of",
    "a photo of",
    "photo of",
    "a close photo of",
    "a portrait of",
    "a colorful portrait of",
)
FIRST_NAMES = (
    "anna", "emma", "james", "john", "mary", "peter", "paul", "lucy", "alice", "oscar", "hugo",
    "nina", "maria", "david", "daniel", "sarah", "laura", "julia", "robert", "thomas", "george", "henry",
    "william", "charles", "kate", "jane", "leo", "max", "sam", "tom", "ben", "eva",
)  # fmt: skip
LAST_NAMES = ("smith", "jones", "brown", "taylor", "davies", "evans", "wilson", "johnson")


@dataclass(frozen=True)
class Person:
    """An identity; every field is a function of one or two coordinates of the vector."""

    vector: tuple[float, ...]
    skin: float  # 0 light to 1 dark
    undertone: float
    width: float  # half the head's width, in half heads' heights
    chin: float  # 0 square to 1 pointed
    hair_style: str
    hair_color: str
    hair_shade: float
    hair_volume: float
    brow_thickness: float
    brow_tilt: float
    eye_size: float
    eye_gap: float
    eye_height: float
    iris: float  # hue
    nose_width: float
    nose_length: float
    nose_round: float
    mouth_width: float
    lips: float
    lip_color: float
    beard: str
    glasses: str
    cheeks: float  # blush
    ears: float

    @property
    def features(self) -> np.ndarray:
        """Traits and one-hot kinds for the namer (see `text_to_image`): shape (43,), about -1 to 1."""
        v = np.array(self.vector)
        kinds = [
            (HAIR_STYLES, self.hair_style),
            (HAIR_COLORS, self.hair_color),
            (BEARDS, self.beard),
            (GLASSES, self.glasses),
        ]
        one_hot = [float(name == got) for names, got in kinds for name in names]
        return np.concatenate([2 * np.delete(v, (4, 5, 19, 20)) - 1, one_hot])

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> Person:
        """Build a person from a vector.

        Args:
            vector: shape (24,), in [0, 1].

        Returns:
            The person.

        Raises:
            ValueError: another length, or a coordinate outside [0, 1].
        """
        v = [float(x) for x in vector]
        if len(v) != PERSON_DIM or not all(0 <= x <= 1 for x in v):
            raise ValueError(
                f"A person's vector cannot be {v}. Use {PERSON_DIM} coordinates in [0, 1], as sample_person "
                "does."
            )
        beard = BEARDS[0] if v[19] < 0.55 else BEARDS[1 + min(int((v[19] - 0.55) / 0.15), 2)]
        glasses = GLASSES[0] if v[20] < 0.6 else GLASSES[1 + min(int((v[20] - 0.6) / 0.2), 1)]
        return cls(
            vector=tuple(v),
            skin=v[0],
            undertone=v[1],
            width=0.70 + 0.2 * v[2],
            chin=v[3],
            hair_style=_pick(HAIR_STYLES, v[4]),
            hair_color=_pick(HAIR_COLORS, v[5]),
            hair_shade=v[6],
            hair_volume=v[7],
            brow_thickness=v[8],
            brow_tilt=v[9],
            eye_size=v[10],
            eye_gap=v[11],
            eye_height=v[12],
            iris=v[13],
            nose_width=v[14],
            nose_length=v[15],
            nose_round=v[16],
            mouth_width=v[17],
            lips=v[18],
            lip_color=v[21],
            beard=beard,
            glasses=glasses,
            cheeks=v[22],
            ears=v[23],
        )


@dataclass(frozen=True)
class View:
    """The camera: where the head is in the image."""

    yaw: float = 0.0  # degrees, positive turns the face to the image's right
    roll: float = 0.0  # degrees, positive turns clockwise
    scale: float = 0.31  # half the head's height, in image heights
    x: float = 0.5  # the head's center, in image heights from the left
    y: float = 0.52  # from the top


@dataclass(frozen=True)
class Figure:
    """One person in a scene."""

    person: Person
    expression: tuple[float, ...] = (0.0,) * EXPRESSION_DIM
    job: str = ""  # "" = everyday clothes
    sweater: float = 0.5  # color of everyday clothes
    view: View = field(default_factory=View)


@dataclass(frozen=True)
class Scene:
    """One or more people at a place."""

    figures: tuple[Figure, ...]
    place: str = ""  # a value of BACKDROPS; "" = a plain studio
    studio: float = 0.5  # color of the studio
    aspect: float = 1.0  # width / height


def sample_person(generator: np.random.Generator) -> Person:
    """Sample a person uniformly."""
    return Person.from_vector(generator.random(PERSON_DIM))


def sample_view(generator: np.random.Generator) -> View:
    """Sample a camera as in aligned photo collections: mostly frontal, head centered."""
    yaw, roll = generator.normal(0, 13), generator.normal(0, 5)
    x, y = generator.normal(0.5, 0.02), generator.normal(0.52, 0.02)
    return View(
        float(np.clip(yaw, -32, 32)),
        float(np.clip(roll, -14, 14)),
        float(generator.uniform(0.3, 0.335)),
        float(x),
        float(y),
    )


def sample_expression(generator: np.random.Generator, name: str) -> tuple[float, ...]:
    """Sample coefficients around a named expression, or around a face at rest."""
    center = np.array(COEFFICIENTS.get(name, (0.0,) * EXPRESSION_DIM))
    return tuple(
        float(x) for x in center * generator.uniform(0.85, 1.1) + generator.normal(0, 0.06, EXPRESSION_DIM)
    )


def sample_attributes(generator: np.random.Generator) -> SceneAttributes:
    """Sample attributes: half have no job, half a plain studio, half a face at rest."""
    return SceneAttributes(
        str(generator.choice(EXPRESSIONS)) if generator.random() < 0.5 else NEUTRAL,
        str(generator.choice(JOBS)) if generator.random() < 0.5 else "",
        str(generator.choice(PLACES)) if generator.random() < 0.5 else "",
    )


def sample_scene(generator: np.random.Generator, person: Person, attributes: SceneAttributes) -> Scene:
    """Sample a scene of a person with given attributes; everything else is free.

    Args:
        generator: source of randomness.
        person: who is in it.
        attributes: what is true of it.

    Returns:
        The scene.
    """
    figure = Figure(
        person,
        sample_expression(generator, attributes.expression),
        attributes.job,
        float(generator.random()),
        sample_view(generator),
    )
    return Scene((figure,), BACKDROPS.get(attributes.place, ""), float(generator.random()))


def sample_pair(
    generator: np.random.Generator, people: tuple[Person, Person], attributes: SceneAttributes
) -> Scene:
    """Sample two people side by side in an image of aspect 1.5; arguments as in `sample_scene`."""
    figures = []
    for person, center in zip(people, PAIR_CENTERS, strict=True):
        view = sample_view(generator)
        view = replace(view, scale=view.scale * 0.9, x=view.x - 0.5 + center)
        figures.append(
            Figure(
                person,
                sample_expression(generator, attributes.expression),
                attributes.job,
                float(generator.random()),
                view,
            )
        )
    return Scene(tuple(figures), BACKDROPS.get(attributes.place, ""), float(generator.random()), 1.5)


def describe_looks(person: Person, generator: np.random.Generator) -> str:
    """Describe a person by one to three traits, such as "a person with red hair and round glasses"."""
    looks = [f"{person.hair_color} hair" if person.hair_style != "bald" else "no hair"]
    if (style := _STYLE_WORDS.get(person.hair_style)) is not None:
        looks.append(f"{style} hair")
    if person.glasses != "none":
        looks.append(f"{person.glasses} glasses")
    if person.beard != "none":
        looks.append(f"a {_BEARD_WORDS[person.beard]}")
    looks.append("dark skin" if person.skin > 0.6 else "light skin" if person.skin < 0.35 else "brown skin")
    count = min(int(generator.integers(1, 4)), len(looks))
    chosen = [looks[i] for i in sorted(generator.choice(len(looks), count, replace=False))]
    return "a person with " + " and ".join(chosen)


def _pick(names: tuple[str, ...], x: float) -> str:
    return names[min(int(x * len(names)), len(names) - 1)]
