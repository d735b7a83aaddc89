"""How far an exported embedding is from S*, by its place in the prompt; the results are kept in the help page of Export Embedding."""

import torch
from face2diffusion.f2d.embedding import PLACE, embedding_rows
from support.reference_clip import ReferenceCLIP

PLACES = (1, 2, 3, 4, 5, 6, 8, 16)
NORM = 0.4  # of a word, as in CLIP ViT-L/14's own table
TOKENS = 20  # in each prompt, S* included


def test_an_exported_embedding_is_exact_at_its_place_and_near_elsewhere(sd1_checkpoint):
    """Random weights in CLIP ViT-L/14's shapes and spreads; relative error of the last hidden states over three people and prompts."""
    clip = ReferenceCLIP(sd1_checkpoint)
    positions = clip.text.embeddings.position_embedding.weight.detach()
    generator = torch.Generator().manual_seed(0)
    print(f"norms: position {positions.norm(dim=1).mean():.2f}, word {NORM}\nplace   all 77   at S*   all 77, not centred")
    for place in PLACES:
        errors = []
        for _ in range(3):
            words = torch.nn.functional.normalize(torch.randn(2, 768, generator=generator), dim=1) * NORM
            prompt = torch.randint(320, 40000, (TOKENS,), generator=generator).tolist()
            rows = embedding_rows(words, positions)
            exact, centred, plain = (
                encode(clip, prompt, place, both)
                for both in (words, rows + positions[place : place + 2], words + positions[place : place + 2])
            )
            errors.append(
                [_error(centred, exact), _error(centred[:, place : place + 2], exact[:, place : place + 2]), _error(plain, exact)]
            )
        mean = torch.tensor(errors).mean(0)
        print(f"{place:5} {mean[0]:8.1%} {mean[1]:7.1%} {mean[2]:8.1%}")
        assert (mean[0] < 1e-5) == (place == PLACE)
        assert mean[0] <= mean[2] * 1.5, "centring elsewhere costs about as much as not centring at all"


def encode(clip, prompt, place, rows):
    content = list(prompt)
    content[place - 1 : place + 1] = rows
    return clip.encode(content)


def _error(found, expected):
    return float((found - expected).norm() / expected.norm())
