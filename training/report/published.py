"""The paper's printed numbers, which reports mark as published; none was measured by this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["Subject-driven", "Subject-agnostic"]
OURS = "Face2Diffusion"


@dataclass(frozen=True)
class MethodRow:
    """A method of Tables 1 and 6; each score is a mean over all images, in [0, 1]."""

    method: str
    family: Family
    scores: dict[str, float]  # the six metrics, then hMean and gMean
    table: int = 1
    note: str = ""


@dataclass(frozen=True)
class CostRow:
    """A method of Table 2."""

    method: str
    fid: float
    parameters: float  # trained ones
    seconds: float  # to encode one face, on an NVIDIA A100


@dataclass(frozen=True)
class AblationRow:
    """A variant of Tables 3 to 5."""

    variant: str
    preset: str  # of `f2d-train mapper`, and the method's name in an evaluation
    adaface: float
    clip: float
    printed_hmean: float  # the column is titled hMean, but its values are Table 1's gMean


@dataclass(frozen=True)
class Ablation:
    """One of Tables 3 to 5."""

    number: int
    title: str
    rows: tuple[AblationRow, ...]


def _row(method: str, family: Family, *values: float, table: int = 1, note: str = "") -> MethodRow:
    names = ("AdaFace", "SphereFace", "FaceNet", "CLIP", "dCLIP", "SigLIP", "hMean", "gMean")
    return MethodRow(method, family, dict(zip(names, values, strict=True)), table, note)


METHODS = (
    _row(
        "TextualInversion", "Subject-driven", 0.1654, 0.2518, 0.3197, 0.1877, 0.1075, 0.1283, 0.0320, 0.0575
    ),
    _row("DreamBooth", "Subject-driven", 0.3482, 0.4084, 0.4774, 0.2351, 0.1480, 0.3452, 0.0689, 0.1116),
    _row("CustomDiffusion", "Subject-driven", 0.4537, 0.5624, 0.6458, 0.2023, 0.1490, 0.2182, 0.1078, 0.1700),
    _row("Perfusion", "Subject-driven", 0.0925, 0.1478, 0.1887, 0.2490, 0.1686, 0.3433, 0.0342, 0.0575),
    _row("E4T", "Subject-driven", 0.0433, 0.1190, 0.1725, 0.2510, 0.1784, 0.2671, 0.0370, 0.0589),
    _row("CelebBasis", "Subject-driven", 0.1601, 0.2724, 0.3762, 0.2563, 0.1847, 0.3624, 0.1138, 0.1542),
    _row("FastComposer", "Subject-agnostic", 0.1736, 0.3271, 0.4725, 0.2495, 0.2149, 0.3168, 0.1655, 0.2120),
    _row("ELITE", "Subject-agnostic", 0.0924, 0.1925, 0.3232, 0.1755, 0.1250, 0.0671, 0.0308, 0.0624),
    _row(
        "DreamIdentity",
        "Subject-agnostic",
        0.2847,
        0.4252,
        0.5523,
        0.1924,
        0.1463,
        0.1539,
        0.0849,
        0.1326,
        note="the paper's own version",
    ),
    _row(OURS, "Subject-agnostic", 0.3143, 0.4215, 0.5313, 0.2486, 0.2020, 0.3856, 0.1749, 0.2252),
    _row("OFT", "Subject-driven", 0.3446, 0.3980, 0.4673, 0.2245, 0.1364, 0.3515, 0.0615, 0.0993, table=6),
    _row("DVAR", "Subject-driven", 0.0452, 0.0939, 0.1201, 0.2710, 0.1852, 0.4261, 0.0369, 0.0548, table=6),
)
COSTS = (
    CostRow("CustomDiffusion", 86.18, 5.71e7, 140),
    CostRow("CelebBasis", 69.87, 1024, 220),
    CostRow("FastComposer", 77.62, 8.88e8, 0.026),
    CostRow(OURS, 69.33, 1.20e7, 0.006),
)
_FULL = "cgdr"
ABLATIONS = (
    Ablation(
        3,
        "Effect of the MSID encoder",
        (
            AblationRow("ArcFace", "arcface", 0.2421, 0.2758, 0.2135),
            AblationRow("ArcFace w/ multi-scale features", "arcface-msf", 0.3264, 0.2069, 0.1549),
            AblationRow("MSID encoder (full model)", _FULL, 0.3143, 0.2486, 0.2252),
        ),
    ),
    Ablation(
        4,
        "Effect of expression guidance",
        (
            AblationRow("w/o expression guidance", "no-expression", 0.3338, 0.2315, 0.2032),
            AblationRow("w/ expression guidance (full model)", _FULL, 0.3143, 0.2486, 0.2252),
        ),
    ),
    Ablation(
        5,
        "Effect of CGDR",
        (
            AblationRow("Reconstruction", "reconstruction", 0.3133, 0.2053, 0.1411),
            AblationRow("Masked reconstruction", "masked", 0.3012, 0.1990, 0.1282),
            AblationRow("Reconstruction w/ DSC", "reconstruction-dsc", 0.1651, 0.2851, 0.1596),
            AblationRow("CGDR (full model)", _FULL, 0.3143, 0.2486, 0.2252),
        ),
    ),
)
# Sec. 5: AdaFace on the ten prompts with famous locations, by preset.
LOCATION_ADAFACE = {"reconstruction": 0.2963, "reconstruction-dsc": 0.0663, _FULL: 0.2833}
# Fig. 4: AUC in %, by encoder and depth; the paper gives none for MSID's depth 12.
VERIFICATION_AUC = {"ArcFace": {3: 93.99, 12: 99.97}, "MSID": {3: 99.46}}


def preset_of(method: str) -> str:
    """Return the preset (a row of Tables 3 to 5) that a measured method's name stands for, or ""."""
    name = method.strip().lower().replace(" ", "-").replace("_", "-")
    presets = {row.preset for table in ABLATIONS for row in table.rows}
    return name if name in presets else _FULL if name in ("f2d", OURS.lower(), "ours") else ""
