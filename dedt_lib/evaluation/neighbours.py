"""Metrics from nearest neighbours: precision and recall, and near-copies of training images."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ..arrays import (
    Array,
    check_finite,
    check_positions,
    check_positive,
    check_side,
    check_widths,
    products,
    slices,
)
from ..errors import DedtError

THUMBNAIL = 32
"""Longest side, in pixels, at which images are compared pixel by pixel."""

MOST_NEIGHBOURS = 10_000
"""Most images per side for precision and recall (Dhariwal & Nichol, 2021), and most samples and most held-out
images in the search for near-copies: the cost grows with the product of the sides."""

SAME = 1e-3
"""Distance in grey levels below which images differ by rounding only; one level in one pixel is more."""


def precision_recall(
    real: Array, generated: Array, *, k: int = 3, radii: Array | None = None, device: str | None = None
) -> tuple[float, float]:
    """Precision and recall: shares of realistic samples and covered real images (Kynkaanniemi et al., 2019).

    The ball around an image reaches to its k-th nearest neighbour in the same set.  Precision is the share of
    generated images inside the ball of a real image, recall the share of real images inside the ball of a
    generated image.  Both depend on the number of images: compare them at equal counts only.

    Args:
        real: float [n, d].
        generated: float [m, d]; the same features as for FID.
        k: which nearest neighbour a ball reaches to, counted from 1.
        radii: the result of :func:`neighbour_radii` for ``real``, if known.
        device: PyTorch device for the scalar products, such as "cuda"; None computes on the CPU.

    Returns:
        Precision and recall, in 0..1.

    Raises:
        DedtError: k images or fewer on a side, non-finite features or different widths.
    """
    real, generated = check_side(real), check_side(generated)
    check_widths(real.shape[1], generated.shape[1])
    check_positive(k=k)
    if min(len(real), len(generated)) <= k:
        raise DedtError(
            f"The {k}-th nearest neighbour needs more than {k} images on each side; got {len(real)} and "
            f"{len(generated)}. Lower k, or draw more samples."
        )
    real_radii = neighbour_radii(real, k=k, device=device) if radii is None else radii
    generated_radii = neighbour_radii(generated, k=k, device=device)
    covered, realistic = np.zeros(len(real), dtype=bool), np.zeros(len(generated), dtype=bool)
    for rows, columns in itertools.product(slices(len(real)), slices(len(generated))):
        squared = _squared_distances(real[rows], generated[columns], device)
        realistic[columns] |= (squared <= real_radii[rows, None]).any(axis=0)
        covered[rows] |= (squared <= generated_radii[columns]).any(axis=1)
    return float(realistic.mean()), float(covered.mean())


def neighbour_radii(features: Array, *, k: int = 3, device: str | None = None) -> Array:
    """Squared distance of each row of features [n, d] to its k-th nearest neighbour: float64 [n]."""
    n, radii = len(features), np.empty(len(features))
    for rows in slices(n):
        least: Array = np.full((len(radii[rows]), k + 1), np.inf)
        for columns in slices(n):
            squared = _squared_distances(features[rows], features[columns], device)
            least = np.partition(np.hstack([least, squared]), k, axis=1)[:, : k + 1]
        radii[rows] = least[:, k]  # each row is its own nearest neighbour, so index k is the k-th other row
    return radii


def nearest_distances(
    images: Array,
    references: Array,
    *,
    mirrored: bool = False,
    among: Array | None = None,
    device: str | None = None,
) -> tuple[Array, Array]:
    """Pixel distance of each image to the nearest reference.

    Sides longer than THUMBNAIL pixels are first reduced to THUMBNAIL by area averaging: a copy remains a
    copy, and its noise counts for less.

    Args:
        images: uint8 [n, C, H, W].
        references: uint8 [m, C, H, W], memory-mapped or not; they are read once, a block at a time.
        mirrored: whether to compare the mirror image of each image too and take the smaller distance.
        among: int, the positions of the references to search; all by default.
        device: PyTorch device for the scalar products, such as "cuda"; None computes them with NumPy.

    Returns:
        Root-mean-square differences float64 [n] in grey levels 0..255, and the positions int64 [n] of the
        nearest references.

    Raises:
        DedtError: images and references are not uint8 images of one shape.
    """
    check_images(images)
    check_images(references)
    if images.shape[1:] != references.shape[1:]:
        raise DedtError(
            f"Images {list(images.shape[1:])} and references {list(references.shape[1:])} differ in shape "
            "and cannot be compared."
        )
    small = [
        np.concatenate([_thumbnails(view[part]) for part in slices(len(view))])
        for view in views(images, mirrored=mirrored)
    ]
    squared, nearest = _nearest(small, references, among, device, _thumbnails)
    return np.sqrt(squared / small[0].shape[1]), nearest


def nearest_features(
    sides: Sequence[Array], references: Array, *, among: Array | None = None, device: str | None = None
) -> Array:
    """Euclidean distance of each image to the nearest reference in feature space.

    Args:
        sides: features float [n, d] of one or more views of the images (see :func:`views`); the nearest view
            counts.
        references: features float [m, d], memory-mapped or not.
        among: see :func:`nearest_distances`.
        device: see :func:`nearest_distances`.

    Returns:
        float64 [n].
    """
    sides, references = [check_finite(side) for side in sides], check_finite(references)
    for side in sides:
        check_widths(side.shape[1], references.shape[1])
    return np.sqrt(_nearest(sides, references, among, device, np.asarray)[0])


def near(distances: Array, quantile: float = 0.01) -> float | None:
    """Threshold for near-copies: the ``quantile`` of held-out images' distances [n]; None for n = 0."""
    return float(np.quantile(distances, quantile)) if len(distances) else None


def views(images: Array, *, shifted: bool = False, mirrored: bool = False) -> Iterator[Array]:
    """Yield the images uint8 [n, C, H, W] unchanged, followed by further views of them, one by one.

    ``shifted`` adds shifts by one pixel in all eight directions, which repeat the border.  ``mirrored`` adds
    the mirror image of each view.
    """
    steps, (height, width) = (0, 1, -1) if shifted else (0,), images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge") if shifted else images
    for dy, dx in itertools.product(steps, steps):
        moved = padded[:, :, 1 + dy :, 1 + dx :][:, :, :height, :width] if dy or dx else images
        yield moved
        if mirrored:
            yield moved[..., ::-1]


def check_images(images: Array) -> None:
    """Raise DedtError for anything but uint8 [n, C, H, W] with n > 0."""
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise DedtError(
            f"Images must be a NumPy array, uint8 [n, C, H, W]; got {images.dtype} {list(images.shape)}."
        )


def _nearest(
    sides: Sequence[Array],
    references: Array,
    among: Array | None,
    device: str | None,
    prepare: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """Squared distance float64 [n] of each row to the nearest reference, and its position int64 [n]."""
    among = None if among is None else check_positions(among, len(references))
    if not len(references) or (among is not None and not len(among)):
        raise DedtError("There are no references to search.")
    n, m = len(sides[0]), len(references) if among is None else len(among)
    least, nearest = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    for columns in slices(m):
        others = prepare(references[columns if among is None else among[columns]])
        for rows, side in itertools.product(slices(n), sides):
            squared = _squared_distances(side[rows], others, device)
            closer = squared.min(axis=1) < least[rows]
            nearest[rows] = np.where(closer, columns.start + squared.argmin(axis=1), nearest[rows])
            least[rows] = np.minimum(squared.min(axis=1), least[rows])
    return least, nearest if among is None else among[nearest]


def _squared_distances(x: Array, y: Array, device: str | None) -> Array:
    """Squared Euclidean distances between rows of x [n, d] and y [m, d]: float64 [n, m], exact for uint8."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    norms = np.square(x).sum(axis=1, keepdims=True) + np.square(y).sum(axis=1)
    squared = products(x, y, device)
    squared *= -2
    squared += norms
    squared[squared < 1e-12 * norms] = 0  # a copy is at distance zero, however the sums were rounded
    return squared


def _thumbnails(images: Array) -> Array:
    """Images as rows [n, -1] with no side longer than THUMBNAIL: uint8, or float32 if they were reduced."""
    height, width = images.shape[2:]
    if max(height, width) > THUMBNAIL:
        size = min(height, THUMBNAIL), min(width, THUMBNAIL)
        # In small parts, because float32 takes four times the memory.
        parts = torch.from_numpy(np.array(images, order="C")).split(64)
        pooled = [torch.nn.functional.adaptive_avg_pool2d(part.float(), size) for part in parts]
        images = torch.cat(pooled).numpy()
    return images.reshape(len(images), -1)
