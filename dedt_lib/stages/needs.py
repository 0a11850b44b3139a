"""What a run needs of each class: how many images, and what is said of classes that have too few."""

from collections.abc import Iterable, Sequence

from ..data.names import few
from ..errors import DedtError

REAL_IMAGES, SAMPLES = 4, 2
"""What FID needs of a side's images: two for a covariance, and on the real side four, for its own halves."""

MOST_NAMED = 20
"""So many classes are named in a message."""

ADVICE = "raise the ratio, add images, or choose within each class (scope 'class')"


def no_empty_class(counts: Iterable[int], names: Sequence[str], ratio: float, advice: str = ADVICE) -> None:
    """Refuse a coreset with a class that keeps no image; counts: its images of each class."""
    empty = [name for name, count in zip(names, counts) if count == 0]
    if empty:
        raise DedtError(f"Class(es) {few(empty, MOST_NAMED)} keep no image at ratio {ratio:g}: {advice}.")


def enough(counts: Sequence[int]) -> float:
    """A ratio, in thousandths, of which every class keeps an image."""
    return int(500 / min(counts) + 1) / 1000


def left_out(counts: Sequence[int], drawn: Sequence[int], names: Sequence[str]) -> list[str]:
    """Classes that have no class-wise FID, with the reason, such as "cat (3 images)".

    Args:
        counts: images of each class.
        drawn: samples of each class.
        names: of the classes.

    Returns:
        The names, each with its reason.
    """
    found = []
    for name, images, samples in zip(names, counts, drawn):
        reasons = [f"{images} image{'' if images == 1 else 's'}"] if images < REAL_IMAGES else []
        reasons += [f"{samples} sample{'' if samples == 1 else 's'}"] if samples < SAMPLES else []
        found += [f"{name} ({', '.join(reasons)})"] if reasons else []
    return found
