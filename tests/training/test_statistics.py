"""Bootstrap, upper bound and ranks against known values."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from face2diffusion.training.report.published import ABLATIONS, METHODS, preset_of
from face2diffusion.training.report.statistics import bootstrap, bootstrap_mean, rank, upper_bound


def test_interval_has_the_width_of_the_standard_error_over_identities() -> None:
    """Identical images of one identity count as one: the error falls with identities, not with images."""
    chance = np.random.default_rng(0)
    identities, images, spread = 400, 40, 0.1
    values = np.repeat(0.3 + spread * chance.standard_normal(identities), images)
    found = bootstrap_mean(values, np.repeat(np.arange(identities), images), draws=4000)
    error = values.reshape(identities, images).mean(1).std() / math.sqrt(identities)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert (found.samples, found.identities) == (identities * images, identities)


def test_interval_has_its_nominal_coverage() -> None:
    """95 % of 300 experiments, less the percentile method's deficit at 40 identities; 3 sigma: 3.8 %."""
    chance, hits = np.random.default_rng(1), 0
    for _ in range(300):
        values = 0.2 + 0.05 * np.repeat(chance.standard_normal(40), 5) + 0.1 * chance.standard_normal(200)
        found = bootstrap_mean(values, np.repeat(np.arange(40), 5), draws=500)
        hits += found.low <= 0.2 <= found.high
    assert 0.90 <= hits / 300 <= 0.985


def test_gaps_are_excluded_and_not_counted_as_zero() -> None:
    found = bootstrap_mean(np.array([0.2, math.nan, 0.4, 0.6]), np.array(["a", "a", "b", "b"]))
    assert found.value == pytest.approx(0.4)
    assert (found.samples, found.identities) == (3, 2)
    assert bootstrap_mean(np.array([math.nan]), np.array(["a"])) is None
    assert math.isnan(bootstrap_mean(np.array([0.2, 0.3]), np.array(["a", "a"])).low)


def test_the_same_data_give_the_same_interval() -> None:
    values, identities = np.random.default_rng(2).random(60), np.arange(60) // 6
    assert bootstrap_mean(values, identities) == bootstrap_mean(values, identities)


def test_any_statistic_is_bootstrapped_over_identities() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, (400, 3))  # three of each identity
    value, low, high = bootstrap(lambda chosen: float(np.median(values[chosen])), 400)
    assert value == np.median(values)
    error = 1.2533 * 2.0 / 1200**0.5  # of the median of normal values
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.35)
    assert np.isnan(bootstrap(lambda chosen: 1.0, 1)[1:]).all()


def test_upper_bound_by_hand() -> None:
    identities, prompts = np.array(["a"] * 4 + ["b"] * 4), np.array([0] * 4 + [7] * 4)
    values = np.array([0.1, 0.4, 0.2, 0.3, 0, 0, 0, 0.8])
    found = {point.n: point.mean.value for point in upper_bound(values, identities, prompts, draws=10)}
    assert found == pytest.approx(
        {1: (0.25 + 0.2) / 2, 2: ((0.4 * 3 + 0.3 * 2 + 0.2) / 6 + 0.8 * 3 / 6) / 2, 4: (0.4 + 0.8) / 2}
    )


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_upper_bound_is_the_mean_over_all_choices(n: int) -> None:
    values = np.random.default_rng(3).random(9)
    (found,) = upper_bound(values, np.zeros(9), np.zeros(9), (n,), draws=1)
    assert found.mean.value == pytest.approx(np.mean([max(choice) for choice in combinations(values, n)]))


def test_pairs_with_fewer_images_than_n_are_excluded() -> None:
    values, identities = np.array([0.1, 0.3, 0.5, math.nan]), np.array(["a", "a", "b", "b"])
    found = {
        point.n: (point.mean.value, point.mean.samples)
        for point in upper_bound(values, identities, np.zeros(4), draws=1)
    }
    assert found == {1: (pytest.approx(0.35), 2), 2: (pytest.approx(0.3), 1)}
    assert upper_bound(np.array([math.nan]), np.array(["a"]), np.zeros(1)) == []


def test_equal_values_share_a_rank_and_gaps_have_none() -> None:
    assert rank({"a": 0.1, "b": 0.3, "c": 0.3, "d": math.nan, "f": 0.2}) == {"b": 1, "c": 1, "f": 3}
    assert rank({"a": 86.18, "b": 69.87, "c": 69.33}, places=2, lower_is_better=True) == {"c": 1, "b": 2}


def test_ranks_of_table_1_are_those_that_the_paper_prints() -> None:
    printed = {
        "AdaFace": ("CustomDiffusion", "DreamBooth", "Face2Diffusion"),
        "SphereFace": ("CustomDiffusion", "DreamIdentity", "Face2Diffusion"),
        "FaceNet": ("CustomDiffusion", "DreamIdentity", "Face2Diffusion"),
        "CLIP": ("CelebBasis", "E4T", "FastComposer"),
        "dCLIP": ("FastComposer", "Face2Diffusion", "CelebBasis"),
        "SigLIP": ("Face2Diffusion", "CelebBasis", "DreamBooth"),
        "hMean": ("Face2Diffusion", "FastComposer", "CelebBasis"),
        "gMean": ("Face2Diffusion", "FastComposer", "CustomDiffusion"),
    }
    for score, methods in printed.items():
        found = rank({row.method: row.scores[score] for row in METHODS if row.table == 1})
        assert sorted(found, key=found.__getitem__) == list(methods), score


def test_published_rows_are_consistent() -> None:
    """The full model is the same in every table, and the ablations' last column is Table 1's gMean."""
    (ours,) = (row for row in METHODS if row.method == "Face2Diffusion")
    assert len(METHODS) == 12
    for table in ABLATIONS:
        full = table.rows[-1]
        assert (full.adaface, full.clip, full.printed_hmean) == (
            ours.scores["AdaFace"],
            ours.scores["CLIP"],
            ours.scores["gMean"],
        )
    assert [preset_of(name) for name in ("F2D", "arcface_msf", "Reconstruction DSC", "ELITE")] == [
        "cgdr",
        "arcface-msf",
        "reconstruction-dsc",
        "",
    ]
