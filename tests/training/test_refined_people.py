"""The study of refined people: what is kept, what is measured again, and what the page says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d.word_refinement import RefinementConfig
from face2diffusion.training.config import MiniatureConfig
from face2diffusion.training.miniature.study import refined_people

pytestmark = pytest.mark.slow


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Two steps on one photo; no images: a score is the mean of the person's words, which are listed."""
    words: list[torch.Tensor] = []

    def score(models, identity, who, config):
        words.append(models.narrow(models.encoder.words(identity)))
        return dict.fromkeys(refined_people._TASKS, float(words[-1].mean()))

    def pairs(models, people, apart, identities):
        means = torch.stack([models.encoder.words(identity).mean() for identity in identities])
        return torch.stack([means] * 2), torch.zeros(2, people)

    monkeypatch.setattr(refined_people, "PHOTOS", (1,))
    monkeypatch.setattr(refined_people, "MARKS", (0, 1, 2))
    monkeypatch.setattr(refined_people, "CONFIG", RefinementConfig(steps=2, batch=2))
    monkeypatch.setattr(refined_people, "_score", score)
    monkeypatch.setattr(refined_people, "generate_pairs", pairs)
    return words


def test_people_are_measured_once_and_couples_with_the_words_that_were_kept(
    tmp_path: Path, seen: list[torch.Tensor]
) -> None:
    config = MiniatureConfig(out=str(tmp_path), report_people=2)
    page = refined_people.write_refinement_study(config, lambda line: None)
    assert len(seen) == 6, "two people after 0, 1 and 2 steps"
    for who in (0, 1):
        kept = json.loads((tmp_path / "refined" / f"1-{who}.json").read_text())["words"]
        for step in (0, 1, 2):
            assert torch.allclose(torch.tensor(kept[str(step)]), seen[3 * who + step], atol=1e-4)
        assert kept["0"] != kept["1"] != kept["2"]
    told = json.loads((tmp_path / "refined" / "1-couples.json").read_text())["scores"]
    assert told == {
        str(step): [float(seen[3 * who + step].mean() > 0) for who in (0, 1)] for step in (0, 1, 2)
    }
    rows = re.findall(r"^\| 1 photo, (\d) steps \|.*\|$", page.read_text(), re.MULTILINE)
    assert rows == ["0", "1", "2"] and "Couples told apart" in page.read_text()

    assert refined_people.write_refinement_study(config, lambda line: None).read_text() == page.read_text()
    assert len(seen) == 6, "nothing is measured again"
    refined_people.write_refinement_study(replace(config, report_people=1), lambda line: None)
    assert len(seen) == 9, "the last person's reference is another one's now"
