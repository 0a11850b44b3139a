"""How many images a run needs of each class, and the messages about classes with too few."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..data.names import few
from ..errors import DedtError

REAL_IMAGES, SAMPLES = 4, 2
"""The least that FID needs: four real images, whose halves are compared too, and two samples."""

MOST_NAMED = 20
"""The most classes that a message names."""


def no_empty_class(counts: Iterable[int], names: Sequence[str], ratio: float, advice: str) -> None:
    """Raise DedtError if a class of a coreset keeps no image; counts: its images per class."""
    empty = [name for name, count in zip(names, counts) if count == 0]
    if empty:
        raise DedtError(f"Class(es) {few(empty, MOST_NAMED)} keep no image at ratio {ratio:g}: {advice}.")


def advice(counts: Sequence[int] | np.ndarray, scope: str, ratio: float, fewest: int = 1) -> str:
    """What to do about classes that keep no image.

    Args:
        counts: Training images per class.
        scope: "class" or "global", in which the images were chosen.
        ratio: The share that is kept.
        fewest: Images that the method needs in each class to choose within it.
    """
    if scope == "class":
        return f"raise the ratio to {enough(counts):g} or more, or add images"
    within = min(counts) >= fewest and round(ratio * min(counts)) > 0
    return f"raise the ratio, or {'choose within each class (--scope class)' if within else 'add images'}"


def enough(counts: Sequence[int] | np.ndarray) -> float:
    """A ratio, in whole thousandths, at which every class keeps an image."""
    return int(500 / min(counts) + 1) / 1000


def seldom_seen(counts: Sequence[int] | np.ndarray, names: Sequence[str], batch_size: int) -> list[str]:
    """Classes of a coreset that most batches lack, each with the share that have it, such as "cat (4 %)".

    In the other steps of group DRO their excess is that of the last batch with them, or zero
    (``reweight.absent``), and this decides their weight.

    Args:
        counts: Kept images per class.
        names: Names of the classes.
        batch_size: Images in a batch of the proxy.
    """
    counts = np.asarray(counts)
    shares = 1 - (1 - counts / counts.sum()) ** min(batch_size, counts.sum())
    return [f"{name} ({100 * share:.0f} %)" for name, share in zip(names, shares) if share < 0.5]


def left_out(counts: Sequence[int], drawn: Sequence[int], names: Sequence[str]) -> list[str]:
    """Classes without a class-wise FID, each with the reason, such as "cat (3 images)".

    Args:
        counts: Training images per class.
        drawn: Samples per class.
        names: Names of the classes.
    """
    found = []
    for name, images, samples in zip(names, counts, drawn):
        reasons = [f"{images} image{'' if images == 1 else 's'}"] if images < REAL_IMAGES else []
        reasons += [f"{samples} sample{'' if samples == 1 else 's'}"] if samples < SAMPLES else []
        found += [f"{name} ({', '.join(reasons)})"] if reasons else []
    return found
