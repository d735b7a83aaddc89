"""The values that are saved and shared: a person's identity and an expression, without any photo."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn.functional import normalize

from .checkpoint import Checkpoint, read, save

FORMAT_VERSION = 2  # of refined identities; a plain one has version 1, which older packs read
_PLAIN_VERSION = 1

Interpolation = Literal["spherical", "linear"]  # how identities are mixed
INTERPOLATIONS: tuple[Interpolation, ...] = ("spherical", "linear")

_STEPS = 200  # of the spherical mean; six faces, some 90 degrees apart, need about 60
_CLOSE = 1e-9  # radians; a step shorter than this is the last
_CANCELLED = 1e-6  # of the weights without their signs; a smaller sum is what rounding leaves of none
_OPPOSITE = 1e-6  # directions whose mean is shorter than this have no mean direction


@dataclass(frozen=True, eq=False)
class Refinement:
    """What refining S* on photos adds to the mapper's words, whatever the expression."""

    offset: torch.Tensor  # (2, D) float32, CPU
    mapper: str  # fingerprint of the mapping network whose words it belongs to


@dataclass(frozen=True, eq=False)
class FaceIdentity:
    """Who someone is: v_id, and which encoder it comes from."""

    v_id: torch.Tensor  # (I,) float32, CPU; the mean over the photos
    msid: str  # fingerprint of the MSID encoder
    photos: int = 1
    msid_file: str = ""  # the name of the MSID encoder's file, if known, for messages
    refinement: Refinement | None = None  # of `FaceEncoder.refine`; None = the words are the mapper's

    @property
    def msid_described(self) -> str:
        """The MSID encoder it comes from, in words."""
        return describe_msid(self.msid_file, self.msid)

    def save(self, path: str | os.PathLike) -> None:
        """Write the identity as one .safetensors, atomically; no photo goes into it.

        Args:
            path: where to.

        Raises:
            OSError: the folder cannot be written to.
        """
        entries = {"msid": self.msid, "msid_file": self.msid_file, "photos": str(self.photos)}
        if self.refinement is None:
            entries["version"] = str(_PLAIN_VERSION)
        else:
            entries |= {"version": str(FORMAT_VERSION), "mapper": self.refinement.mapper}
        save(path, self.tensors, "identity", **entries)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What a file of it holds: v_id, and the offset of a refined one."""
        refined = {} if self.refinement is None else {"offset": self.refinement.offset}
        return {"v_id": self.v_id, **refined}

    @classmethod
    def load(cls, path: str | os.PathLike) -> FaceIdentity:
        """Read an identity; `FaceEncoder.load_identity` also checks that it belongs to the encoder.

        Args:
            path: what `save` wrote.

        Returns:
            The identity, v_id of shape (I,).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: another kind of file, or a newer format.
        """
        checkpoint = read(path)
        if checkpoint.kind != "identity" or "v_id" not in checkpoint.tensors:
            raise ValueError(
                f"'{checkpoint.path}' is not a saved identity: this is {checkpoint.described}. "
                "Choose another file."
            )
        metadata = checkpoint.metadata
        try:
            version, photos = int(metadata.get("version", "0")), int(metadata.get("photos", "1"))
        except ValueError as error:
            raise ValueError(
                f"The metadata of the identity '{checkpoint.path}' is damaged ({error}). Save it again."
            ) from error
        if version > FORMAT_VERSION:
            raise ValueError(
                f"'{checkpoint.path}' has format {version}, newer than this pack's {FORMAT_VERSION}. "
                "Update the pack."
            )
        # A view would keep the file open, and Windows from replacing it.
        v_id = checkpoint.tensors["v_id"].to(torch.float32, copy=True)
        if v_id.ndim != 1 or not v_id.isfinite().all():
            raise ValueError(
                f"'{checkpoint.path}' holds no vector of finite features: "
                f"it has shape {tuple(v_id.shape)} or NaN. Save it again."
            )
        msid, msid_file = metadata.get("msid", ""), metadata.get("msid_file", "")
        return cls(v_id, msid, photos, msid_file, _read_refinement(checkpoint))


def _read_refinement(checkpoint: Checkpoint) -> Refinement | None:
    if "offset" not in checkpoint.tensors:
        return None
    offset = checkpoint.tensors["offset"].to(torch.float32, copy=True)
    if offset.ndim != 2 or len(offset) != 2 or not offset.isfinite().all():
        raise ValueError(
            f"The refinement in '{checkpoint.path}' is not two finite words: "
            f"it has shape {tuple(offset.shape)} or NaN. Save it again."
        )
    return Refinement(offset, checkpoint.metadata.get("mapper", ""))


def describe_msid(file: str, fingerprint: str) -> str:
    """Name an MSID encoder in a message: its file, if known, and the beginning of the fingerprint."""
    return ", ".join(part for part in (file, fingerprint[:8]) if part) or "unknown"


def mix(
    identities: Sequence[FaceIdentity],
    weights: Sequence[float],
    interpolation: Interpolation = "spherical",
    names: Sequence[str] | None = None,
    *,
    depths: int,
) -> FaceIdentity:
    """Mix people.

    "linear" takes the weighted mean of v_id. Features of different people are nearly at right angles, so
    the mean of two is some 30 % shorter than either, and weaker than anyone the mapper was trained on.
    "spherical" takes, at each depth of the encoder by itself, the weighted mean of the directions on the
    sphere and the weighted mean of the lengths; for two people the directions are those of Shoemake's slerp
    (1985), for more the mean of Buss and Fillmore (2001).

    What refinement adds to the words is mixed by weight, with either interpolation; a plain identity adds
    nothing.

    Args:
        identities: of one encoder.
        weights: one for each; they are divided by their sum. "linear" also takes negative ones, away from a
            person.
        interpolation: "spherical" or "linear".
        names: what messages call them; None = "identity 1" and so on.
        depths: how many depths of the encoder v_id consists of, 4 in the paper.

    Returns:
        The mix, v_id of shape (I,); the only identity with a weight, if there is one only, to the bit.

    Raises:
        ValueError: no identities, identities of different encoders or refined for different mappers, or
            weights that make no sense.
    """
    _check_weights(weights, len(identities), interpolation)
    _check_one_encoder(
        identities, names or [f"identity {number}" for number in range(1, len(identities) + 1)]
    )
    parts = [(identity, weight) for identity, weight in zip(identities, weights, strict=True) if weight]
    first = parts[0][0]
    if len(parts) == 1:
        return first
    features = torch.stack([identity.v_id for identity, _ in parts]).double()
    shares = torch.tensor([weight for _, weight in parts], dtype=torch.float64) / sum(weights)
    if interpolation == "linear":
        v_id = shares @ features
    else:
        v_id = spherical_mean(features.unflatten(1, (depths, -1)), shares).flatten()
    return replace(
        first,
        v_id=v_id.float(),
        photos=sum(identity.photos for identity, _ in parts),
        refinement=_mix_refinements([identity.refinement for identity, _ in parts], shares),
    )


def describe_refined_mix(identities: Sequence[FaceIdentity], weights: Sequence[float]) -> str:
    """Describe in one line what happens to refinements that only some people of a mix have; else ""."""
    used = [identity.refinement for identity, weight in zip(identities, weights, strict=True) if weight]
    refined = sum(one is not None for one in used)
    if refined in (0, len(used)):
        return ""
    return (
        f"{refined} of {len(used)} identities in this mix are refined; a refinement counts by its weight, "
        "and the others add none."
    )


def _mix_refinements(refinements: Sequence[Refinement | None], shares: torch.Tensor) -> Refinement | None:
    refined = [(one, float(share)) for one, share in zip(refinements, shares, strict=True) if one]
    if not refined:
        return None
    mappers = {one.mapper for one, _ in refined}
    if len(mappers) > 1:
        raise ValueError(
            f"These identities were refined for {len(mappers)} mappers "
            f"({', '.join(sorted(name[:8] for name in mappers))}), whose words do not mix. "
            "Refine all with the same mapper."
        )
    return Refinement(torch.stack([share * one.offset for one, share in refined]).sum(0), mappers.pop())


def _check_weights(weights: Sequence[float], people: int, interpolation: Interpolation) -> None:
    listed = ", ".join(f"{weight:g}" for weight in weights)
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"The interpolation '{interpolation}' does not exist. Choose one of {', '.join(INTERPOLATIONS)}."
        )
    if not people or people != len(weights):
        raise ValueError(
            f"There are {people} identities and {len(weights)} weights. Give at least one of each."
        )
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"The mix weights {listed} are not all finite numbers. Change them.")
    if sum(weights) <= _CANCELLED * sum(map(abs, weights)):
        raise ValueError(f"The mix weights {listed} do not add up to more than 0. Raise at least one.")
    if interpolation == "spherical" and min(weights) < 0:
        raise ValueError(
            f"A spherical mix takes no weights below 0, but they are {listed}. "
            "Choose 'linear' to go away from a person."
        )


def _check_one_encoder(identities: Sequence[FaceIdentity], names: Sequence[str]) -> None:
    for name, identity in zip(names, identities, strict=True):
        if identity.msid != identities[0].msid:
            raise ValueError(
                f"{names[0]} comes from one encoder ({identities[0].msid_described}) and {name} from another "
                f"({identity.msid_described}). Encode all photos with the same MSID file."
            )


def spherical_mean(vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute the weighted mean of directions on the unit sphere, at the weighted mean length.

    The mean direction is where the arcs to all directions, times their weights, add up to nothing (Buss and
    Fillmore, "Spherical Averages and Applications to Spherical Splines and Interpolation", 2001, algorithm
    A1).

    Args:
        vectors: shape (N, ..., C), float64.
        weights: shape (N,), float64, from 0, with the sum 1.

    Returns:
        shape (..., C).

    Raises:
        ValueError: the directions cancel out.
    """
    weights = weights.reshape(-1, *[1] * (vectors.ndim - 1))
    lengths = vectors.norm(dim=-1, keepdim=True)
    directions = normalize(vectors, dim=-1)
    mean = (weights * directions).sum(0)
    if (mean.norm(dim=-1) < _OPPOSITE).any():
        raise ValueError(
            "These faces have no direction between them: they are opposite, or one is without features. "
            "Change a weight."
        )
    mean = normalize(mean, dim=-1)
    for _ in range(_STEPS):
        cosine = (directions * mean).sum(-1, keepdim=True)
        aside = directions - cosine * mean
        arc = torch.atan2(aside.norm(dim=-1, keepdim=True), cosine)
        step = (weights * arc * normalize(aside, dim=-1)).sum(0)
        size = step.norm(dim=-1, keepdim=True)
        mean = normalize(mean * size.cos() + normalize(step, dim=-1) * size.sin(), dim=-1)
        if size.max() < _CLOSE:
            break
    return mean * (weights * lengths).sum(0)


@dataclass(frozen=True, eq=False)
class FaceExpression:
    """How someone looks: v_exp and how far to follow it."""

    v_exp: torch.Tensor  # (E,) float32, CPU
    strength: float = 1.0  # 0 = the mapper's null expression, 1 = the reference
