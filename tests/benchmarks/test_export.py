"""How far an exported embedding is from S*, by its place in the prompt.

The results are kept in the help page of Export Embedding.
"""

import torch
from face2diffusion.f2d import miniature
from face2diffusion.f2d.demo import SETTINGS
from face2diffusion.f2d.diffusion.text_encoder import text_embeddings
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.prompt.embedding import DEFAULT_POSITION, embedding_rows
from support.reference_clip import ReferenceCLIP

PLACES = (1, 2, 3, 4, 5, 6, 8, 16)
NORM = 0.4  # of a word, as in CLIP ViT-L/14's own table
MINIATURE_OPENINGS = {
    3: "photo of",
    4: "a photo of",
    5: "a close photo of",
    7: "a photo of a person and",
}  # by the place of S*
TOKENS = 20  # in each prompt, S* included


def test_an_exported_embedding_is_exact_at_its_place_and_near_elsewhere(sd1_checkpoint):
    """Random weights in CLIP ViT-L/14's shapes and spreads.

    Relative error of the last hidden states over three people and prompts.
    """
    clip = ReferenceCLIP(sd1_checkpoint)
    positions = clip.text.embeddings.position_embedding.weight.detach()
    generator = torch.Generator().manual_seed(0)
    print(
        f"norms: position {positions.norm(dim=1).mean():.2f}, word {NORM}\n"
        "place   all 77   at S*   all 77, not centered"
    )
    for place in PLACES:
        errors = []
        for _ in range(3):
            words = torch.nn.functional.normalize(torch.randn(2, 768, generator=generator), dim=1) * NORM
            prompt = torch.randint(320, 40000, (TOKENS,), generator=generator).tolist()
            rows = embedding_rows(words, positions)
            exact, centered, plain = (
                encode(clip, prompt, place, both)
                for both in (words, rows + positions[place : place + 2], words + positions[place : place + 2])
            )
            errors.append(
                [
                    _error(centered, exact),
                    _error(centered[:, place : place + 2], exact[:, place : place + 2]),
                    _error(plain, exact),
                ]
            )
        mean = torch.tensor(errors).mean(0)
        print(f"{place:5} {mean[0]:8.1%} {mean[1]:7.1%} {mean[2]:8.1%}")
        assert (mean[0] < 1e-5) == (place == DEFAULT_POSITION)
        assert mean[0] <= mean[2] * 1.5, "centering elsewhere costs about as much as not centering at all"


def encode(clip, prompt, place, rows):
    content = list(prompt)
    content[place - 1 : place + 1] = rows
    return clip.encode(content)


def _error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_an_exported_embedding_on_the_trained_miniature():
    """Trained weights, if small ones.

    The same errors, and the identity scores of images generated with either.
    """
    encoder, pipeline, (verifier, _) = (
        miniature.load_encoder(),
        miniature.load_pipeline(),
        miniature.load_evaluators(),
    )
    photos = [load_photo(path) for path in miniature.portraits().values()]
    known = verifier.embed(photos)
    positions = text_embeddings(pipeline.diffusion.text_encoder).position_embedding.weight.detach()
    print("\nplace   all 77   at S*   all 77, not centered   identity, exact and exported")
    for place, opening in MINIATURE_OPENINGS.items():
        prompt, errors, likeness = f"{opening} S* as a king", [], []
        for who, photo in enumerate(photos):
            words = miniature.narrow(encoder.words(encoder.identify(photo, alignment="FFHQ")))
            centered = embedding_rows(words, positions)
            exact, exported, plain = (
                state(pipeline, prompt, *rows)
                for rows in ((words, "replace"), (centered, "before"), (words, "before"))
            )
            at = slice(place, place + 2)
            errors.append(
                [_error(exported, exact), _error(exported[:, at], exact[:, at]), _error(plain, exact)]
            )
            drawn = pipeline.generate_encoded(
                [prompt] * 2, torch.cat([exact, exported]), [who] * 2, SETTINGS, progress=False
            )
            likeness.append(verifier.embed([picture.image for picture in drawn]) @ known[who])
        mean, same = torch.tensor(errors).mean(0), torch.stack(likeness).mean(0)
        print(f"{place:5} {mean[0]:8.1%} {mean[1]:7.1%} {mean[2]:8.1%} {same[0]:17.2f} {same[1]:6.2f}")
        assert (mean[0] < 1e-5) == (place == DEFAULT_POSITION)
        assert same[1] > same[0] - 0.2


def state(pipeline, prompt, rows, positional):
    pipeline.subjects.clear()
    pipeline.add_subject(rows, positional=positional)
    return pipeline.encode(prompt)
