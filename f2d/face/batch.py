"""Several photos of one person, of which some may show no face."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .detection import NoFaceError

Source = TypeVar("Source")
Crop = TypeVar("Crop")


@dataclass
class CroppedBatch(Generic[Crop]):
    """What was cut out of each photo; None for a photo without a face."""

    photos: int  # how many there are; not all are looked at where the first face is enough
    crops: list[Crop | None] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # names of the photos without a face
    best_score: float = 0.0  # of the candidates in these

    @property
    def used(self) -> list[Crop]:
        """The crops of the photos with a face."""
        return [crop for crop in self.crops if crop is not None]

    @property
    def report(self) -> str:
        """Which photos were skipped, in one line; empty if all have a face."""
        if not self.skipped:
            return ""
        return (
            f"{len(self.skipped)} of {self.photos} photos skipped: {', '.join(self.skipped)}; "
            f"best score {self.best_score:.2f}"
        )


def crop_batch(
    photos: Iterable[Source],
    crop: Callable[[Source], Crop],
    names: Iterable[str] | None = None,
    first_only: bool = False,
) -> CroppedBatch[Crop]:
    """Crop the face from each photo, and skip photos without one.

    Args:
        photos: one or more, read one after the other.
        crop: cuts one; raises a NoFaceError if there is no face.
        names: of the photos, for the messages; default: 1, 2, ...
        first_only: stop at the first photo with a face.

    Returns:
        The crops, at least one.

    Raises:
        NoFaceError: there is no face in any; it has the best score.
        ValueError: a photo is not usable for another reason; the message names it if there are several.
    """
    photos = list(photos)
    names = [str(number) for number in range(1, len(photos) + 1)] if names is None else list(names)
    if len(photos) == 1:
        return CroppedBatch(1, [crop(photos[0])])
    batch: CroppedBatch[Crop] = CroppedBatch(len(photos))
    for name, photo in zip(names, photos, strict=True):
        try:
            batch.crops.append(crop(photo))
            if first_only:
                break
        except NoFaceError as error:
            batch.crops.append(None)
            batch.skipped.append(name)
            batch.best_score = max(batch.best_score, error.best_score)
        except ValueError as error:
            raise ValueError(f"Photo {name} of {len(photos)}: {error}") from error
    if not batch.used:
        raise NoFaceError(
            f"No face in the {len(photos)} photos reaches the minimum score; the best candidate has "
            f"{batch.best_score:.2f}. Lower the minimum score, or use photos with larger, frontal faces.",
            batch.best_score,
        )
    return batch
