"""Frechet distances between Gaussians fitted to features: FID of all images, or of each class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, check_features, check_positive, check_side, check_widths, mean_and_scatter
from ..errors import DedtError
from ..randomness import numpy_generator


def gaussian_statistics(features: Array) -> tuple[Array, Array]:
    """Mean [d] and unbiased covariance [d, d] of features [n, d], float64; raises DedtError for n < 2."""
    features = check_side(features)
    mean, scatter = mean_and_scatter(features, np.arange(len(features)))
    scatter += np.tril(scatter, -1).T
    return mean, scatter / (len(features) - 1)


@dataclass(frozen=True, eq=False)
class FrechetReference:
    """One side of a Frechet distance, factorised once for many comparisons.

    Attributes:
        mean: float64 [d].
        factor: float64 [d, r] such that factor @ factor.T is the covariance: its symmetric square root or, if
            there are fewer images than features, the centred features over sqrt(n - 1), transposed.
        count: number of images, 0 if unknown.
    """

    mean: Array
    factor: Array
    count: int

    @classmethod
    def of(cls, features: Array) -> "FrechetReference":
        """The reference for features float [n, d]; raises DedtError for n < 2 or non-finite features."""
        features = check_side(features)
        n, d = features.shape
        if n >= d:
            return cls.from_statistics(*gaussian_statistics(features), n)
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        return cls(mean, (features - mean).T / np.sqrt(n - 1), n)

    @classmethod
    def from_statistics(cls, mean: Array, covariance: Array, count: int = 0) -> "FrechetReference":
        """The reference for a given mean [d] and covariance [d, d], such as published ones."""
        values, vectors = np.linalg.eigh(covariance)
        return cls(mean, vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T, count)

    def distance(self, generated: "Array | FrechetReference") -> float:
        """Frechet distance to features float [m, d], or to another reference."""
        if isinstance(generated, FrechetReference):
            check_widths(len(self.mean), len(generated.mean))
            # With S_r = A A^T and S_g = B B^T, tr (S_r S_g)^1/2 is the sum of the singular values of A^T B.
            overlap = np.linalg.norm(self.factor.T @ generated.factor, "nuc")
            mean, trace = generated.mean, np.square(generated.factor).sum()
        else:
            generated = check_side(generated)
            m, d = generated.shape
            check_widths(len(self.mean), d)
            if m < d:
                return self.distance(FrechetReference.of(generated))
            mean, covariance = gaussian_statistics(generated)
            product = np.linalg.eigvalsh(self.factor.T @ covariance @ self.factor)
            overlap, trace = np.sqrt(np.maximum(product, 0)).sum(), np.trace(covariance)
        difference = self.mean - mean
        return float(difference @ difference + np.square(self.factor).sum() + trace - 2 * overlap)

    def save(self, path: Path) -> None:
        """Write the reference as one file in NumPy's ``.npz`` format."""
        with open(path, "wb") as file:
            np.savez(file, mean=self.mean, factor=self.factor, count=self.count)

    @classmethod
    def load(cls, path: Path) -> "FrechetReference":
        """Read a reference that :meth:`save` wrote."""
        with np.load(path) as file:
            return cls(file["mean"], file["factor"], int(file["count"]))


def frechet_distance(real: Array | FrechetReference, generated: Array) -> float:
    """Frechet distance between Gaussians fitted to two feature matrices (FID; Heusel et al., 2017).

    ``|mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^1/2)``.  With ``S_r = A A^T``, the trace of the square root
    is ``sum sqrt eig(A^T S_g A)``, which is real and defined for singular covariances too.

    Args:
        real: float [n, d], or its FrechetReference, which saves most of the time if this side is compared
            often.
        generated: float [m, d].

    Returns:
        The distance, >= 0 up to rounding.

    Raises:
        DedtError: fewer than two images on a side, non-finite features or different widths.
    """
    reference = real if isinstance(real, FrechetReference) else FrechetReference.of(real)
    return reference.distance(generated)


def classwise_references(
    features: Array, labels: Array, *, least: int | None = None
) -> list[FrechetReference | None]:
    """The FrechetReference of each class: the real side of :func:`classwise_frechet`.

    Args:
        features: float [n, d].
        labels: int [n], 0..K-1.
        least: smallest number of images, at least two; a class with fewer gets None.  By default no class may
            have fewer than two.

    Returns:
        K references, or None in their place.

    Raises:
        DedtError: a class has fewer than two images and ``least`` is not given.
    """
    features, labels = check_features(features, labels)
    counts = np.bincount(labels)
    if least is None and counts.min() < 2:
        raise DedtError(
            f"Class {counts.argmin()} has {counts.min()} images, but FID needs two. Add images of this class."
        )
    enough = counts >= max(2, least or 0)
    return [FrechetReference.of(features[labels == k]) if enough[k] else None for k in range(len(counts))]


def classwise_frechet(
    real: Any, real_labels: Array | None, generated: Array, generated_labels: Array, *, partial: bool = False
) -> Array:
    """Frechet distance of each class (paper, Fig. 2).

    The values are biased by the small number of images per class: compare them at equal counts only.

    Args:
        real: float [n, d], or the list that :func:`classwise_references` returns.
        real_labels: int [n], 0..K-1; None with a list of references.
        generated: float [m, d].
        generated_labels: int [m].
        partial: whether a class with fewer than two images on a side may be left out.

    Returns:
        float64 [K], NaN for a class that is left out.

    Raises:
        DedtError: a class has fewer than two images on a side, unless ``partial``.
    """
    references = real if real_labels is None else classwise_references(real, real_labels, least=2)
    generated, labels = check_features(generated, generated_labels)
    values = np.full(max(len(references), labels.max() + 1), np.nan)
    for k in range(len(values)):
        reference, side = references[k] if k < len(references) else None, generated[labels == k]
        if reference is not None and len(side) >= 2:
            values[k] = reference.distance(side)
        elif not partial:
            few = reference.count if reference is not None else "too few"
            images = few if real_labels is None else np.equal(real_labels, k).sum()
            raise DedtError(
                f"Class {k} has {images} real and {len(side)} generated images, but FID needs two of each "
                "(four real ones for the floor). Add images of this class, or draw more samples."
            )
    return values


def real_floor(
    features: Array, labels: Array, *, splits: int = 10, classwise: bool = True
) -> dict[str, float | Array]:
    """FID between random halves of the real data, as a floor to compare every reported value with.

    Args:
        features: float [n, d].
        labels: int [n]; each class is halved.
        splits: number of random splits over which the FID is averaged.
        classwise: whether to compute the FID of each class too.

    Returns:
        "fid", and "classwise" float64 [K]: NaN for a class with fewer than four images, whose halves are too
        small; empty without ``classwise``.
    """
    features, labels = check_features(features, labels)
    check_positive(splits=splits)
    totals, of_classes = [], []
    for split in range(splits):
        order = numpy_generator(0, "floor", split).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        left, right = order[::2], order[1::2]
        totals.append(frechet_distance(features[left], features[right]))
        if classwise:
            sides = features[left], labels[left], features[right], labels[right]
            of_classes.append(classwise_frechet(*sides, partial=True))
    means = np.mean(of_classes, axis=0) if classwise else np.empty(0)
    return {"fid": float(np.mean(totals)), "classwise": means}
