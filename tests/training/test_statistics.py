"""Bootstrap, upper bound and ranks against known values."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from face2diffusion.training.report.published import ABLATIONS, METHODS, preset_of
from face2diffusion.training.report.statistics import (
    bootstrap,
    bootstrap_mean,
    rank,
    student_quantile,
    upper_bound,
)


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


@pytest.mark.parametrize("identities", [4, 12, 40])
@pytest.mark.parametrize("spread", ["normal", "uniform"])
def test_intervals_have_their_nominal_coverage(identities: int, spread: str) -> None:
    """As Student's t, which covers less than 95 % of uniform means; the unwidened bootstrap: 78, 91, 94 %."""
    chance, hits, exact = np.random.default_rng(identities), 0, 0
    margin = student_quantile(0.95, identities - 1) / math.sqrt(identities)
    for _ in range(1000):
        people = chance.standard_normal(identities)
        if spread == "uniform":
            people = chance.uniform(-1.7, 1.7, identities)
        values = 0.2 + 0.05 * np.repeat(people, 3) + 0.02 * chance.standard_normal(3 * identities)
        means = values.reshape(identities, 3).mean(1)
        exact += abs(means.mean() - 0.2) <= margin * means.std(ddof=1)
        found = bootstrap_mean(values, np.repeat(np.arange(identities), 3), draws=400)
        hits += found.low <= 0.2 <= found.high
    assert abs(hits - exact) <= 30
    assert hits / 1000 >= (0.93 if spread == "normal" else 0.90)


def test_differences_of_any_statistic_are_covered_too() -> None:
    chance, hits = np.random.default_rng(5), 0
    for _ in range(600):
        values = chance.standard_normal(12)
        _, low, high = bootstrap(lambda chosen, values=values: float(values[chosen].mean()), 12, draws=200)
        hits += low <= 0 <= high
    assert hits / 600 >= 0.93


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (11, 2.2010), (39, 2.0227)]
)
def test_quantiles_of_students_t(freedom: int, expected: float) -> None:
    assert student_quantile(0.95, freedom) == pytest.approx(expected, abs=1e-4)


def test_an_interval_ends_at_the_limits() -> None:
    found = bootstrap_mean(np.array([0.1, 0.9]), np.array(["a", "b"]), limits=(0, 1))
    assert (found.low, found.high) == (0, 1)


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


def test_every_n_uses_the_same_pairs() -> None:
    values, identities = np.array([0.1, 0.3, 0.5, math.nan]), np.array(["a", "a", "b", "b"])
    found = {
        point.n: (point.mean.value, point.mean.samples)
        for point in upper_bound(values, identities, np.zeros(4), draws=1)
    }
    assert found == {1: (pytest.approx(0.2), 1), 2: (pytest.approx(0.3), 1)}
    assert upper_bound(np.array([math.nan]), np.array(["a"]), np.zeros(1)) == []


@pytest.mark.parametrize("kept", [1, 3, 7])
def test_the_upper_bound_never_falls(kept: int) -> None:
    """Good pairs lack images, so their exclusion at large N would lower the curve."""
    values = np.random.default_rng(0).random((10, 8)) * 0.1
    values[6:] += 0.8
    values[6:, kept:] = math.nan
    pairs = np.repeat(np.arange(10), 8)
    found = upper_bound(values.ravel(), pairs, np.zeros(80), draws=1)
    assert [point.n for point in found] == [1, 2, 4, 8]
    means = [point.mean.value for point in found]
    assert means == sorted(means) and {point.mean.samples for point in found} == {6}


def test_equal_values_share_a_rank_and_gaps_have_none() -> None:
    assert rank({"a": 0.1, "b": 0.3, "c": 0.3, "d": math.nan, "f": 0.2}) == {"b": 1, "c": 1, "f": 3}
    assert rank({"a": 0.3, "b": math.nan}) == {}
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
