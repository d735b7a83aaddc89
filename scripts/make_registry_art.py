"""Makes docs/icon.png and docs/banner.jpg, which the Comfy Registry shows: people of the miniature.

python scripts/make_registry_art.py
"""

from pathlib import Path

import numpy as np
from face2diffusion.f2d import miniature
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature.prompts import LOCATIONS, SceneAttributes
from make_teaser import choose
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parents[1] / "docs"
ICON, BANNER = (400, 400), (1260, 540)  # px; the registry takes a square of at most 400 px, and 21:9
PAPER, INK, GRAY, ACCENT = (32, 33, 38), (240, 240, 244), (150, 152, 162), (255, 184, 64)
SCENES = (
    SceneAttributes(job="chef"),
    SceneAttributes(place=LOCATIONS[7], job="king"),
    SceneAttributes(job="cowboy"),
    SceneAttributes(place=LOCATIONS[5]),
)


def main() -> None:
    photo = load_photo(next(iter(miniature.portraits().values())))
    draw_icon(photo).save(DOCS / "icon.png", optimize=True)
    draw_banner(photo, generate(photo)).save(DOCS / "banner.jpg", quality=90)


def generate(photo: np.ndarray) -> list[np.ndarray]:
    """Generate the person in each scene."""
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    verifier, attributes = miniature.load_evaluators()
    words = encoder.words(encoder.identify(photo, alignment="FFHQ"))
    pipeline.add_subject(miniature.narrow(words), positional=encoder.mapper.config.positional)
    return [choose(pipeline, verifier, attributes, photo, scene) for scene in SCENES]


def draw_icon(photo: np.ndarray) -> Image.Image:
    """Draw a face with S* in the corner."""
    icon = Image.new("RGBA", ICON)
    paste_rounded(icon, photo, (0, 0), ICON[0], 88)
    pen, font = ImageDraw.Draw(icon), ImageFont.load_default(88)
    pen.rounded_rectangle((250, 290, 390, 390), 34, PAPER)
    pen.text((321, 343), "S*", ACCENT, font, anchor="mm", stroke_width=2, stroke_fill=ACCENT)
    return icon.quantize(256, Image.Quantize.FASTOCTREE)


def draw_banner(photo: np.ndarray, scenes: list[np.ndarray]) -> Image.Image:
    """Draw the photo, S*, and the person in four scenes."""
    banner = Image.new("RGB", BANNER, PAPER)
    pen = ImageDraw.Draw(banner)
    paste_rounded(banner, photo, (70, 60), 256)
    pen.text((198, 346), "one photo", GRAY, ImageFont.load_default(26), anchor="mm")
    pen.text((70, 444), "Face2Diffusion", INK, ImageFont.load_default(58), anchor="lm", stroke_width=1)
    pen.text(
        (72, 494),
        "A face becomes S*, two words for any prompt",
        GRAY,
        ImageFont.load_default(21),
        anchor="lm",
    )
    pen.text(
        (480, 190), "S*", ACCENT, ImageFont.load_default(130), anchor="mm", stroke_width=2, stroke_fill=ACCENT
    )
    for left, right in ((346, 386), (580, 640)):
        pen.line((left, 196, right - 12, 196), INK, 6)
        pen.polygon(((right - 16, 182), (right + 6, 196), (right - 16, 210)), INK)
    for number, scene in enumerate(scenes):
        place = 700 + number % 2 * 248, 28 + number // 2 * 248
        paste_rounded(banner, scene, place, 236)
    return banner


def paste_rounded(
    sheet: Image.Image, image: np.ndarray, place: tuple[int, int], side: int, radius: int = 28
) -> None:
    """Scale a square image to a side, and paste it with round corners; all in px."""
    corners = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 4 * side - 1, 4 * side - 1), 4 * radius, 255)
    scaled = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    sheet.paste(scaled, place, corners.resize((side, side), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
