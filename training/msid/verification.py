"""How well an identity encoder tells people apart at each depth: {anchor, positive, negative} triplets as in
Fig. 4.

verify("msid.pt", "vggface2", "runs/msid")                          aligned faces, as training takes them
verify("arcface.pt", "vggface2", "runs/arcface", depths=(3, 12))    Figs. 4(a) and (b)
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...f2d.checkpoint import read
from ...f2d.files import atomic_file
from ...f2d.image import to_signed
from ...f2d.networks.msid import MSIDEncoder, load_msid
from ..data.face_datasets import FaceSet, open_faces
from ..engine.processes import ALONE, Processes
from ..engine.seeds import derive_seed

logger = logging.getLogger(__name__)

_TRIPLETS = 200  # what the seed is for
_BINS = 50  # of the histograms
_DIGITS = 7  # decimal places of a cosine in the JSON


@dataclass(frozen=True, eq=False)
class Similarities:
    """Cosines of the features of one depth."""

    positive: np.ndarray  # (T,) of anchor and positive
    negative: np.ndarray  # (T,) of anchor and negative

    @property
    def auc(self) -> float:
        """Area under the ROC curve, in [0, 1]."""
        return area_under_curve(self.positive, self.negative)


@dataclass(frozen=True)
class DepthResult:
    """What is reported of one depth."""

    depth: int  # counted from 1
    auc: float  # in [0, 1]
    positive_mean: float
    negative_mean: float
    positive: list[float]  # cosines of all triplets, from which the report computes intervals
    negative: list[float]

    @classmethod
    def of(cls, depth: int, found: Similarities) -> DepthResult:
        """Summarize the cosines of one depth."""
        positive, negative = (array.astype(np.float64) for array in (found.positive, found.negative))
        cosines = (np.round(array, _DIGITS).tolist() for array in (positive, negative))
        return cls(depth, found.auc, float(positive.mean()), float(negative.mean()), *cosines)


def sample_triplets(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Sample one {anchor, positive, negative} for each identity that has two photos or more.

    Args:
        labels: shape (N,), the identity of each photo; photos with a negative one are left out.
        seed: of the sampling.

    Returns:
        shape (T, 3), places in `labels`; anchor and positive are two photos of one identity, the negative is
        any photo of another.

    Raises:
        ValueError: no identity has two photos, or there is one identity only.
    """
    draws = np.random.default_rng(derive_seed(seed, _TRIPLETS))
    order = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]  # photos by identity
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    pairs = counts >= 2
    if not pairs.any() or len(counts) < 2:
        raise ValueError(
            f"Triplets need at least 2 identities, one of them with 2 photos; there are {len(counts)} with "
            f"at most {counts.max(initial=0)} photo(s). Add photos."
        )
    starts, counts = starts[pairs], counts[pairs]
    anchor = draws.integers(counts)
    positive = (anchor + draws.integers(1, counts)) % counts
    negative = (starts + counts + draws.integers(len(order) - counts)) % len(
        order
    )  # counted on from the identity's last photo
    return order[np.stack([starts + anchor, starts + positive, negative], axis=1)]


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """Compute the probability that a positive score is above a negative one, ties counting half.

    Args:
        positive: shape (P,).
        negative: shape (Q,).

    Returns:
        in [0, 1].
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(negative)))


@torch.no_grad()
def compare(
    encoder: MSIDEncoder,
    faces: FaceSet,
    triplets: np.ndarray,
    batch_size: int = 64,
    log: Callable[[str], None] | None = None,
    processes: Processes = ALONE,
) -> dict[int, Similarities]:
    """Compute the cosines of all triplets at each depth; those with a damaged face are left out.

    Args:
        encoder: is put into evaluation mode for it.
        faces: aligned.
        triplets: shape (T, 3), places in `faces`.
        batch_size: faces at once.
        log: called with each progress message.
        processes: share the faces; all take part.

    Returns:
        cosines by depth, counted from 1.

    Raises:
        RuntimeError: a process failed.
        ValueError: each triplet has a damaged face.
    """
    places, back = np.unique(triplets, return_inverse=True)
    batches = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
    rank, world = processes.rank, processes.world
    mine = batches[rank::world]
    shares = processes.gather_work(lambda: _embed(encoder, faces, mine, log))
    features = torch.cat([shares[number % world][number // world] for number in range(len(batches))], dim=1)
    damaged = features.isnan().any(dim=0).any(dim=-1).numpy()  # (P,)
    back = back.reshape(triplets.shape)
    back = back[~damaged[back].any(axis=1)]
    if not len(back):
        raise ValueError(f"None of the {len(triplets)} triplets has three intact faces. Get the faces again.")
    found = {}
    for depth, level in zip(encoder.config.depths, features, strict=True):
        chosen = level[torch.from_numpy(back)]  # (T, 3, C)
        anchor, positive, negative = chosen.unbind(1)
        found[depth] = Similarities((anchor * positive).sum(1).numpy(), (anchor * negative).sum(1).numpy())
    return found


def _embed(
    encoder: MSIDEncoder, faces: FaceSet, batches: Sequence[np.ndarray], log: Callable[[str], None] | None
) -> list[torch.Tensor]:
    """Compute features of batches of faces, each (L, b, C) of unit length, on the CPU; NaN if damaged."""
    training, device = encoder.training, next(encoder.parameters()).device
    found = []
    encoder.eval()
    try:
        for number, places in enumerate(batches, 1):
            images = [_load_intact(faces, int(place), encoder.config.image_size) for place in places]
            blank = torch.zeros(encoder.config.image_size, encoder.config.image_size, 3, dtype=torch.uint8)
            batch = torch.stack([blank if image is None else image for image in images])
            levels = encoder.forward_levels(to_signed(batch.to(device)))
            features = torch.stack([F.normalize(tokens.float()).cpu() for tokens in levels])
            features[:, [image is None for image in images]] = torch.nan
            found.append(features)
            if log and number % 20 == 0:
                log(f"{number}/{len(batches)} batches of faces")
    finally:
        encoder.train(training)
    return found


def _load_intact(faces: FaceSet, place: int, size: int) -> torch.Tensor | None:
    """Load a face, (size, size, 3) uint8; None if it is damaged."""
    try:
        return torch.from_numpy(faces.load(place, size))
    except (ValueError, OSError) as error:
        logger.warning("Skipped face %d: %s", place, error)
        return None


def draw_histograms(found: Mapping[int, Similarities], path: str | os.PathLike, title: str = "") -> None:
    """Draw the distributions of Fig. 4, one beside the other, each on its own scale: shallow features of
    everyone are nearly the same.

    Args:
        found: of `compare`.
        path: of the PNG.
        title: above all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(found), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (depth, similarities) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        bins = np.histogram_bin_edges(
            np.concatenate((similarities.positive, similarities.negative)).astype(float), _BINS
        )
        for values, label, color in (
            (similarities.positive, "same", "tab:blue"),
            (similarities.negative, "different", "tab:orange"),
        ):
            axes.hist(
                values,
                bins,
                weights=np.full(len(values), 1 / len(values)),
                alpha=0.6,
                label=label,
                color=color,
            )
        axes.set(
            title=f"depth {depth}, AUC {100 * similarities.auc:.2f} %",
            xlabel="identity similarity",
            ylabel="frequency",
        )
        axes.locator_params(axis="x", nbins=4)
        axes.legend()
    figure.suptitle(title)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def report(
    found: Mapping[int, Similarities], out: str | os.PathLike, name: str, **details: Any
) -> dict[str, Any]:
    """Write `<out>/<name>.json` and `<out>/<name>.png`.

    Args:
        found: of `compare`.
        out: a folder; is made.
        name: of the files.
        **details: more entries of the JSON.

    Returns:
        what the JSON holds: `triplets`, `depths` (a list of `DepthResult` as dicts) and the details.
    """
    depths = [DepthResult.of(depth, values) for depth, values in found.items()]
    result = {
        **details,
        "triplets": len(next(iter(found.values())).positive),
        "depths": [asdict(depth) for depth in depths],
    }
    with atomic_file(Path(out) / f"{name}.json") as temporary:
        Path(temporary).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw_histograms(found, Path(out) / f"{name}.png", str(details.get("encoder", "")))
    return result


def verify(
    encoder_file: str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    depths: tuple[int, ...] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "",
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure an encoder's verification AUC at each depth; writes `verification.json` and `verification.png`.

    Args:
        encoder_file: official `msid.pt` or our .safetensors.
        data: aligned faces in class folders, or in another layout that training takes.
        out: folder for the two files.
        depths: instead of the file's own; depths without a norm of their own give the class token as it is.
        seed: of the triplets.
        batch_size: faces at once.
        device: "" = the best there is.
        log: called with each progress message.

    Returns:
        what the JSON holds: encoder, data, seed, triplets, and the fields of `DepthResult` for each depth.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: not an encoder, damaged data, or no identity with two photos.
    """
    encoder = load_msid(read(encoder_file), depths).to(
        device or ("cuda" if torch.cuda.is_available() else "cpu")
    )
    faces = open_faces(data, remap=True)
    found = compare(encoder, faces, sample_triplets(faces.labels, seed), batch_size, log)
    return report(
        found, out, "verification", encoder=Path(encoder_file).name, data=Path(data).name, seed=seed
    )
