"""How good the samples are: FID, class-wise FID, KID, CMMD, precision and recall, near-copies.

The metrics are functions of feature matrices.  ``extract_features`` makes those with an extractor of
torch-fidelity (Inception-v3); ``register_classifier`` offers it a network of our own.
"""

import functools
import io
import itertools
from dataclasses import dataclass

import numpy as np

from .errors import DedtError
from .selection import check_choice, check_features, check_finite, mean_and_scatter

INCEPTION = "inception-v3-compat"
THUMBNAIL = 32

MOST_PAIRED = 10_000
"""Up to so many images on each side KID is that of all pairs; beyond, the mean over random subsets."""

KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020
"""As Binkowski et al. (2018) estimate KID, with the seed of torch-fidelity."""

MOST_NEIGHBOURS = 10_000
"""How many images of a side precision and recall take (Dhariwal & Nichol, 2021), and near-copies of the
samples and of the held-out images: their cost grows with the product of the sides."""

MOST_EMBEDDED = 50_000
"""How many training images CMMD takes."""

SAME = 1e-3
"""Grey levels below which two images differ by rounding alone: less than one level in one pixel."""


def gaussian_statistics(features):
    """Mean [d] and unbiased covariance [d, d] of features [n, d], float64; raises DedtError for n < 2."""
    features = _check_side(features)
    mean, scatter = mean_and_scatter(features, np.arange(len(features)))
    scatter += np.tril(scatter, -1).T
    return mean, scatter / (len(features) - 1)


def _check_side(features):
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < 2:
        raise DedtError(
            f"FID and KID need features of at least two images on each side; got shape {features.shape}."
        )
    return check_finite(features)


@dataclass(frozen=True, eq=False)
class FrechetReference:
    """One side of a Frechet distance, factorised once and compared often.

    mean: float64 [d].  factor: float64 [d, r] with factor @ factor.T the covariance: its symmetric square
    root, or, of fewer images than features, the centred images over sqrt(n - 1).  count: int, how many
    images, 0 where nobody said.
    """

    mean: np.ndarray
    factor: np.ndarray
    count: int

    @classmethod
    def of(cls, features):
        """The reference of features float [n, d]; raises DedtError for n < 2 or non-finite features."""
        features = _check_side(features)
        n, d = features.shape
        if n >= d:
            return cls.from_statistics(*gaussian_statistics(features), n)
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        return cls(mean, (features - mean).T / np.sqrt(n - 1), n)

    @classmethod
    def from_statistics(cls, mean, covariance, count=0):
        """The reference of a mean [d] and a covariance [d, d], such as published ones."""
        values, vectors = np.linalg.eigh(covariance)
        return cls(mean, vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T, count)

    def __len__(self):
        return self.count

    def distance(self, generated):
        """Frechet distance to features float [m, d], or to another reference: a float."""
        if isinstance(generated, FrechetReference):
            self._check_width(len(generated.mean))
            # With S_r = A A^T and S_g = B B^T, tr (S_r S_g)^1/2 is the sum of the singular values of A^T B.
            overlap = np.linalg.norm(self.factor.T @ generated.factor, "nuc")
            return self._total(generated.mean, np.square(generated.factor).sum(), overlap)
        generated = _check_side(generated)
        self._check_width(generated.shape[1])
        if len(generated) < generated.shape[1]:
            return self.distance(FrechetReference.of(generated))
        return self.distance_to_statistics(*gaussian_statistics(generated))

    def distance_to_statistics(self, mean, covariance):
        """Frechet distance to a mean [d] and a covariance [d, d]: a float."""
        self._check_width(len(mean))
        product = np.linalg.eigvalsh(self.factor.T @ covariance @ self.factor)
        return self._total(mean, np.trace(covariance), np.sqrt(np.maximum(product, 0)).sum())

    def _total(self, mean, trace, overlap):
        difference = self.mean - mean
        return float(difference @ difference + np.square(self.factor).sum() + trace - 2 * overlap)

    def _check_width(self, width):
        if len(self.mean) != width:
            raise DedtError(f"Features of different width ({len(self.mean)} and {width}) cannot be compared.")

    def save(self, path):
        """Write the reference as one ``.npz`` file."""
        from .store import atomic

        with atomic(path) as partial, open(partial, "wb") as file:
            np.savez(file, mean=self.mean, factor=self.factor, count=self.count)

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote; raises DedtError when the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                reference = cls(file["mean"], file["factor"], int(file["count"]))
            if reference.factor.shape[:1] != reference.mean.shape:
                raise ValueError(f"shapes {reference.mean.shape} and {reference.factor.shape}")
        except FileNotFoundError:
            raise DedtError(f"{path} does not exist.") from None
        except Exception as error:
            raise DedtError(f"{path} holds no Frechet reference ({error!r}); make it again.") from error
        return reference


def frechet_distance(real, generated):
    """Frechet distance between Gaussians fitted to two feature matrices (FID; Heusel et al., 2017).

    |mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^1/2).  With S_r = A A^T the last term is
    sum sqrt eig(A^T S_g A): real-valued, and defined for singular covariances too.

    real: float [n, d], or its FrechetReference, which saves most of the time where one side is compared
    often.  generated: float [m, d].  Returns a float >= 0 up to rounding.  Raises DedtError for fewer than
    two images, non-finite features or widths that differ.
    """
    reference = real if isinstance(real, FrechetReference) else FrechetReference.of(real)
    return reference.distance(generated)


def frechet_between(real, generated):
    """The same distance from two pairs (mean, covariance)."""
    return FrechetReference.from_statistics(*real).distance_to_statistics(*generated)


def classwise_references(features, labels, *, least=None):
    """The :class:`FrechetReference` of each class, for :func:`classwise_frechet`: a list of K.

    features: float [n, d].  labels: int [n].  least: a class with fewer images gets None.  Raises DedtError
    without it for a class with fewer than two images.
    """
    features, labels = check_features(features, labels)
    counts = np.bincount(labels)
    if least is None and counts.min() < 2:
        raise DedtError(
            f"Class {counts.argmin()} has {counts.min()} images, and FID needs two: add images of that class."
        )
    enough = counts >= (least or 2)
    return [FrechetReference.of(features[labels == k]) if enough[k] else None for k in range(len(counts))]


def classwise_frechet(real, real_labels, generated, generated_labels, *, partial=False):
    """Frechet distance of each class: float64 [K] (paper, Fig. 2).

    real: float [n, d] with labels int [n]; or the list of :func:`classwise_references` with None.
    generated: float [m, d] with labels int [m].  partial: NaN for a class with fewer than two images on a
    side, which is a DedtError otherwise.  The values carry the bias of their small sample, so compare them at
    equal counts only.
    """
    sides = _classes(real, real_labels, generated, generated_labels, partial)
    return np.array([frechet_distance(*pair) if pair else np.nan for pair in sides])


def classwise_kid(real, real_labels, generated, generated_labels):
    """Kernel distance of each class (see :func:`kid`): float64 [K], comparable between counts.

    real: float [n, d] with labels int [n].  generated: float [m, d] with labels int [m].  Raises DedtError
    for a class with fewer than two images on a side.
    """
    sides = _classes(real, real_labels, generated, generated_labels)
    return np.array([kid(*pair) for pair in sides])


def _classes(real, real_labels, generated, generated_labels, partial=False):
    """What is compared in each class: pairs (real, generated); None where ``partial`` lets it be missing."""
    generated, generated_labels = check_features(generated, generated_labels)
    if real_labels is None:
        classes = len(real)
    else:
        real, real_labels = check_features(real, real_labels)
        classes = int(real_labels.max()) + 1

    def real_side(k):
        if real_labels is None:
            return (real[k] if k < classes else None) or ()
        return real[real_labels == k]

    for k in range(max(classes, int(generated_labels.max()) + 1)):
        sides = real_side(k), generated[generated_labels == k]
        if min(map(len, sides)) < 2:
            if partial:
                yield None
                continue
            raise DedtError(
                f"Class {k} has {len(sides[0])} and {len(sides[1])} images to compare, and FID needs two on "
                "each side (four for the floor): add images of that class, or draw more samples."
            )
        yield sides


def real_floor(features, labels, *, splits=10, seed=0, classwise=True):
    """What FID says about two random halves of the real data: the floor under every printed value.

    features: float [n, d].  labels: int [n]; each class is halved.  Returns a dict with "fid" and
    "classwise" [K], each the mean over ``splits`` random halvings; without ``classwise`` the latter is empty.
    A class with fewer than four images has no halves to compare, and NaN.
    """
    from .randomness import numpy_generator

    totals, of_classes = [], []
    for split in range(splits):
        order = numpy_generator(seed, "floor", split).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        left, right = order[::2], order[1::2]
        totals.append(frechet_distance(features[left], features[right]))
        if classwise:
            sides = features[left], labels[left], features[right], labels[right]
            of_classes.append(classwise_frechet(*sides, partial=True))
    return {
        "fid": float(np.mean(totals)),
        "classwise": np.mean(of_classes, axis=0) if classwise else np.empty(0),
    }


def cmmd(real, generated, *, sigma=10.0, unbiased=False, block=1024, device=None):
    """1000 times the squared maximum mean discrepancy with a Gaussian kernel (CMMD; Jayasumana et al., 2024).

    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)).  By default every image is paired with itself too: the biased
    value of the published code, to compare with published numbers.  unbiased: without those pairs, so that
    the expectation does not depend on the number of images; around zero, also below it, for equal
    distributions.

    real: float [n, d].  generated: float [m, d]; both L2-normalised embeddings.  Scalar products are taken in
    the inputs' precision, single or double, all else in double.  Memory beyond the inputs is of the order of
    block^2.  device: where the products are taken, such as "cuda"; None is NumPy.  Returns a float.  Raises
    DedtError for non-finite embeddings, other widths, and fewer images than one on each side (two if
    unbiased).
    """
    least = 2 if unbiased else 1
    if min(len(real), len(generated)) < least:
        raise DedtError(
            f"CMMD needs at least {least} embeddings on each side; got {len(real)} and {len(generated)}."
        )
    return both_cmmds(real, generated, sigma=sigma, block=block, device=device)[int(unbiased)]


def both_cmmds(real, generated, *, within=None, sigma=10.0, block=1024, device=None):
    """:func:`cmmd`, biased and unbiased, from one pass over the pairs: two floats.

    within: what :func:`within_real` says of the real side, which saves most of the time where it is large.
    A side of one image has no unbiased value: NaN.
    """
    real, generated = check_finite(real), check_finite(generated)
    if real.shape[1] != generated.shape[1]:
        raise DedtError(f"Embeddings of width {real.shape[1]} and {generated.shape[1]} cannot be compared.")
    kernel = _gaussian_kernel(sigma, np.result_type(real, generated, np.float32), device)
    within = _mean_kernels(kernel, real, block) if within is None else within
    own = _mean_kernels(kernel, generated, block)
    between = _kernel_sums(kernel, real, generated, block)[0] / (len(real) * len(generated))
    biased, unbiased = (1000 * float(x + y - 2 * between) for x, y in zip(within, own))
    return biased, unbiased


def within_real(real, *, sigma=10.0, block=1024, device=None):
    """The part of CMMD that is of the real side alone, for :func:`both_cmmds`: two floats.

    real: float [n, d] embeddings, in single or double precision as those they will be compared with.
    """
    return _mean_kernels(_gaussian_kernel(sigma, np.result_type(real, np.float32), device), real, block)


def kid(real, generated, *, block=1024, device=None):
    """Unbiased squared maximum mean discrepancy with k(x, y) = (x.y / d + 1)^3 (KID; Binkowski et al., 2018).

    Its expectation does not depend on the number of images, unlike that of FID, so it suits classes with few.
    real: float [n, d].  generated: float [m, d]; the same features as for FID, in float64.  Up to MOST_PAIRED
    images on each side all pairs at once; beyond, the published estimate: the mean over KID_SUBSETS random
    subsets of KID_SUBSET_SIZE images of both sides (fewer where a side has fewer), the subsets being those of
    torch-fidelity.  device: as of :func:`cmmd`.  Returns a float around zero, also below it, for equal
    distributions; tables often show 1000 times the value.  Raises DedtError for fewer than two images,
    non-finite features or other widths.
    """
    real, generated = _comparable(real, generated)
    kernel = functools.partial(_cubic_kernel, device=device)
    if max(len(real), len(generated)) <= MOST_PAIRED:
        return _unbiased_discrepancy(kernel, real, generated, block)
    random, size = np.random.RandomState(KID_SEED), min(KID_SUBSET_SIZE, len(real), len(generated))
    values = []
    for _ in range(KID_SUBSETS):
        sides = [side[np.sort(random.choice(len(side), size, replace=False))] for side in (real, generated)]
        values.append(_unbiased_discrepancy(kernel, *sides, block))
    return float(np.mean(values))


def _comparable(real, generated):
    real, generated = _check_side(real), _check_side(generated)
    if real.shape[1] != generated.shape[1]:
        raise DedtError(
            f"Features of different width ({real.shape[1]} and {generated.shape[1]}) cannot be compared."
        )
    return real, generated


def _unbiased_discrepancy(kernel, real, generated, block):
    """Squared maximum mean discrepancy: mean kernels within both sets, less twice the one between them."""
    within = [_mean_kernels(kernel, side, block)[1] for side in (real, generated)]
    between = _kernel_sums(kernel, real, generated, block)[0] / (len(real) * len(generated))
    return float(sum(within) - 2 * between)


def _mean_kernels(kernel, x, block):
    """Mean of ``kernel`` over all pairs of rows of x [n, d], and over those of different rows: two floats.

    An image paired with itself says nothing about a second draw from its distribution.
    """
    n = len(x)
    total, distinct = _kernel_sums(kernel, x, x, block)
    return float(total / (n * n)), float(distinct / (n * (n - 1))) if n > 1 else np.nan


def _kernel_sums(kernel, x, y, block):
    """Sum of ``kernel(rows, columns)`` over all pairs; and, if y is x, over those of different rows."""
    within, total, distinct = y is x, 0.0, 0.0
    for rows, columns in itertools.product(_blocks(len(x), block), _blocks(len(y), block)):
        if within and columns.start < rows.start:
            continue  # The kernel is symmetric: the block on the other side of the diagonal counts twice.
        values = kernel(x[rows], y[columns])
        added = (2 if within and columns.start > rows.start else 1) * values.sum()
        total, distinct = total + added, distinct + added
        if within and rows == columns:
            distinct -= values.trace()
    return total, distinct


def _blocks(n, block):
    """The indices 0..n-1 in slices of at most ``block``."""
    return [slice(i, i + block) for i in range(0, n, block)]


def _products(x, y, device):
    """x @ y.T of two arrays, which is nearly all the work of a distance; on a ``device`` by PyTorch."""
    if device is None:
        return x @ y.T
    import torch

    x, y = (torch.from_numpy(side).to(device) for side in (x, y))
    return (x @ y.T).cpu().numpy()


def _cubic_kernel(x, y, device):
    base = _products(x.astype(np.float64), y.astype(np.float64), device)
    base /= x.shape[1]
    base += 1
    return base * base * base


def _gaussian_kernel(sigma, dtype, device):
    def kernel(x, y):
        # k - 1: the ones cancel in the discrepancy, and expm1 keeps the digits that are left.
        x, y = x.astype(dtype) / float(sigma), y.astype(dtype) / float(sigma)
        exponent = _products(x, y, device)
        exponent -= np.square(x).sum(axis=1, keepdims=True) / 2
        exponent -= np.square(y).sum(axis=1) / 2
        return np.expm1(exponent, dtype=np.float64)  # NumPy's in single precision is biased in digit seven

    return kernel


def precision_recall(real, generated, *, k=3, block=1024, radii=None, device=None):
    """Share of samples that look real, and of the real images that are covered (Kynkaanniemi et al., 2019).

    Around each image of a set lies a ball that reaches to its k-th nearest neighbour in that set.  Precision
    is the share of generated images in a ball of a real one, recall that of real images in a ball of a
    generated one.  Both depend on the number of images: compare them at equal counts only.

    real: float [n, d].  generated: float [m, d]; the same features as for FID.  radii: those of the real side
    (:func:`neighbour_radii`), where they are known.  device: as of :func:`cmmd`.  Returns (precision,
    recall), floats in 0..1.  Memory beyond the inputs is of the order of block^2.  Raises DedtError for k
    images or fewer on a side, non-finite features or widths that differ.
    """
    real, generated = _comparable(real, generated)
    if min(len(real), len(generated)) <= k:
        raise DedtError(
            f"The {k}-th nearest neighbour needs more than {k} images on each side; got {len(real)} and "
            f"{len(generated)}. Lower k, or draw more samples."
        )
    how = {"k": k, "block": block, "device": device}
    real_radii = neighbour_radii(real, **how) if radii is None else radii
    generated_radii = neighbour_radii(generated, **how)
    covered, realistic = np.zeros(len(real), dtype=bool), np.zeros(len(generated), dtype=bool)
    for rows, columns in itertools.product(_blocks(len(real), block), _blocks(len(generated), block)):
        squared = _squared_distances(real[rows], generated[columns], device)
        realistic[columns] |= (squared <= real_radii[rows, None]).any(axis=0)
        covered[rows] |= (squared <= generated_radii[columns]).any(axis=1)
    return float(realistic.mean()), float(covered.mean())


def neighbour_radii(features, *, k=3, block=1024, device=None):
    """Squared distance of each row of features [n, d] to its k-th nearest neighbour: float64 [n]."""
    radii = np.empty(len(features))
    for rows in _blocks(len(features), block):
        nearest = np.empty((len(features[rows]), 0))
        for columns in _blocks(len(features), block):
            distances = _squared_distances(features[rows], features[columns], device)
            squared = np.hstack([nearest, distances])
            # One more than k, because each row is the nearest to itself.
            nearest = np.partition(squared, min(k, squared.shape[1] - 1), axis=1)[:, : k + 1]
        radii[rows] = nearest.max(axis=1)
    return radii


def _squared_distances(x, y, device=None):
    """Squared Euclidean distances of rows x [n, d] and y [m, d]: float64 [n, m], exact for 8-bit values."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squared = _products(x, y, device)
    squared *= -2
    squared += np.square(x).sum(axis=1, keepdims=True)
    squared += np.square(y).sum(axis=1)
    return np.maximum(squared, 0, out=squared)


def nearest_distances(images, references, *, mirrored=False, among=None, block=512, device=None):
    """Pixel distance of each image to the nearest reference: (float64 [n], index int64 [n]).

    images: uint8 [n, C, H, W].  references: uint8 [m, C, H, W], memory-mapped or not; they are read once, a
    block at a time.  mirrored: of an image and its mirror image the nearer counts.  among: the positions of
    the references that count, int; all by default.  device: as of :func:`cmmd`.
    Root-mean-square difference, 0..255.  Sides longer than THUMBNAIL pixels are first brought down to that by
    the means of areas: a copy is still a copy, and its noise counts for less.
    Raises DedtError for anything but uint8 images of one shape.
    """
    _check_images(images)
    _check_images(references)
    if images.shape[1:] != references.shape[1:]:
        raise DedtError(
            f"Images {list(images.shape[1:])} and references {list(references.shape[1:])} cannot be compared."
        )
    small = [
        np.concatenate([_thumbnails(view[part]) for part in _blocks(len(view), block)])
        for view in views(images, mirrored=mirrored)
    ]
    squared, nearest = _nearest(small, references, among, block, device, _thumbnails)
    return np.sqrt(squared / small[0].shape[1]), nearest


def nearest_features(sides, references, *, among=None, block=512, device=None):
    """Euclidean distance of each image to the nearest reference in features: float64 [n].

    sides: features float [n, d] of one or more views of the images, of which the nearest counts (see
    :func:`views`).  references: float [m, d], memory-mapped or not.  among, device: as of
    :func:`nearest_distances`.
    """
    return np.sqrt(_nearest(sides, references, among, block, device, np.asarray)[0])


def _nearest(sides, references, among, block, device, prepare):
    """Squared distance float64 [n] of rows to the nearest reference, and its position int64 [n]."""
    n, m = len(sides[0]), len(references) if among is None else len(among)
    least, nearest = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    for columns in _blocks(m, block):
        others = prepare(references[columns if among is None else among[columns]])
        for rows, side in itertools.product(_blocks(n, block), sides):
            squared = _squared_distances(side[rows], others, device)
            closer = squared.min(axis=1) < least[rows]
            nearest[rows] = np.where(closer, columns.start + squared.argmin(axis=1), nearest[rows])
            least[rows] = np.minimum(squared.min(axis=1), least[rows])
    return least, nearest if among is None else np.asarray(among)[nearest]


def views(images, *, shifted=False, mirrored=False):
    """Images uint8 [n, C, H, W] as they are; shifted by a pixel to all eight sides; mirrored: one by one.

    What comes in by a shift is the border again.
    """
    steps, (height, width) = (0, 1, -1) if shifted else (0,), images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge") if shifted else None
    for dy, dx in itertools.product(steps, steps):
        moved = padded[:, :, 1 + dy :, 1 + dx :][:, :, :height, :width] if dy or dx else images
        yield moved
        if mirrored:
            yield moved[..., ::-1]


def _thumbnails(images):
    """Images [n, C, H, W] as rows, no side longer than THUMBNAIL: uint8, or float32 where any was."""
    import torch

    height, width = images.shape[2:]
    if max(height, width) > THUMBNAIL:
        size = min(height, THUMBNAIL), min(width, THUMBNAIL)
        # A few at a time, because as floats they take four times the memory.
        parts = torch.from_numpy(np.array(images, order="C")).split(64)
        images = torch.cat([torch.nn.functional.adaptive_avg_pool2d(part.float(), size) for part in parts])
        images = images.numpy()
    return images.reshape(len(images), -1)


def copy_threshold(train, test, *, quantile=0.01, mirrored=False):
    """A distance so small that only ``quantile`` of unseen real images lie that near to a training image.

    train, test: uint8 images.  mirrored: as of :func:`nearest_distances`.  Held-out images that are training
    images have been seen, and are left out.  Returns a float on the scale of :func:`nearest_distances`, or
    None if no image is left.
    """
    distances = nearest_distances(test, train, mirrored=mirrored)[0]
    return near(distances[distances > SAME], quantile)


def near(distances, quantile=0.01):
    """The distance that only ``quantile`` of the held-out images' fall below; None if there are none."""
    return float(np.quantile(distances, quantile)) if len(distances) else None


def spread(labels, most):
    """Positions of at most ``most`` images, each class in its share and evenly through it: sorted int64."""
    n, order = len(labels), np.argsort(labels, kind="stable")
    return np.sort(order[np.arange(most) * n // most]) if n > most else np.arange(n)


def register_classifier(network, weights_sha256, shape):
    """Offer a classifier's features to torch-fidelity; returns the extractor's name.

    network: has ``features(float images in [-1, 1]) -> [n, d]``.  shape: (channels, height, width).  The name
    carries the weights' hash, because torch-fidelity caches statistics by name alone.
    """
    import torch
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    from .encoders import to_float

    name = f"dedt-classifier-{weights_sha256[:12]}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name

    class ClassifierFeatures(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            self.network = network.eval()

        @staticmethod
        def get_provided_features_list():
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "features"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return torch.zeros((1, *shape), dtype=torch.uint8)

        def forward(self, images):
            return (self.network.features(to_float(images)),)

    register_feature_extractor(name, ClassifierFeatures)
    return name


def extract_features(
    images, extractor, *, layer=None, batch_size=256, weights_path=None, out=None, cuda=False
):
    """Features of uint8 images by a torch-fidelity extractor: float32 [n, d].

    images: uint8 [n, C, H, W], memory-mapped or not; one channel is repeated where the network wants three.
    extractor: a name from :func:`register_classifier`, or "inception-v3-compat", the network of published
    FIDs.  layer: by default the one for FID ("2048" of Inception; its "192" and "768" are narrower).
    weights_path: Inception's weights, ``.pth`` or ``.safetensors``.  out: a ``.npy`` file to write to; the
    result is then memory-mapped.  The features do not depend on ``batch_size``, up to rounding.
    Raises DedtError for an unknown extractor or layer, weights that are missing or belong to another
    network, and images that the network cannot take.
    """
    from .store import atomic, create_array

    network = _feature_network(extractor, layer, weights_path).to("cuda" if cuda else "cpu")
    _check_images(images)
    if out is None:
        return _fill_features(network, images, batch_size, np.empty)
    with atomic(out) as partial:
        _fill_features(network, images, batch_size, functools.partial(create_array, partial)).flush()
    return np.load(out, mmap_mode="r")


def _fill_features(network, images, batch_size, allocate):
    import torch
    from tqdm import tqdm

    dummy = network.get_dummy_input_for_compile()
    device = next(network.parameters()).device
    features = None
    for start in tqdm(range(0, len(images), batch_size), desc="features", leave=False):
        batch = torch.from_numpy(np.array(images[start : start + batch_size], order="C")).to(device)
        if batch.shape[1] == 1:
            batch = batch.expand(-1, dummy.shape[1], -1, -1)
        if batch.shape[1] != dummy.shape[1]:
            raise DedtError(
                f"The extractor takes {dummy.shape[1]} channels; the images have {batch.shape[1]}."
            )
        with torch.no_grad():
            rows = network(batch)[0].cpu().numpy()
        if features is None:
            features = allocate((len(images), rows.shape[1]), np.float32)
        features[start : start + len(rows)] = rows
    return features


def _check_images(images):
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise DedtError(f"Images must be uint8 [n, C, H, W]; got {images.dtype} {list(images.shape)}.")


def _feature_network(extractor, layer, weights_path):
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    check_choice("feature extractor", extractor, FEATURE_EXTRACTORS_REGISTRY)
    kind = FEATURE_EXTRACTORS_REGISTRY[extractor]
    layer = str(layer or kind.get_default_feature_layer_for_metric("fid"))
    check_choice("layer", layer, kind.get_provided_features_list())
    weights = {}
    if extractor == INCEPTION:
        weights["feature_extractor_weights_path"] = _inception_weights(weights_path)
    try:
        return create_feature_extractor(extractor, [layer], cuda=False, verbose=False, **weights)
    except RuntimeError as error:
        raise DedtError(f"{weights_path} does not hold the weights of '{extractor}': {error}") from error


def _inception_weights(path):
    """A file's state dict as a buffer: torch-fidelity would open the file in a way that can run code."""
    import torch

    from .weights import read_tensors

    if path is None:
        raise DedtError(
            f"'{INCEPTION}' needs its published weights: give weights_path=weights.locate('inception-fid')."
        )
    if str(path).endswith(".safetensors"):
        state = read_tensors(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise DedtError(f"{path} does not exist.") from None
        except Exception as error:
            raise DedtError(f"{path} is damaged or not a file of weights; get it again ({error}).") from error
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def protocol(*, samples, reference, width, extractor, layer, seed, labels=""):
    """What an FID was measured with, as the words to print beside it.

    samples: int, how many were drawn, with the seed ``seed``.  reference: the real side in words.
    width: int, features of ``layer`` of the extractor.  labels: how the classes of the samples were chosen.
    """
    return (
        f"FID of {samples} samples (seed {seed}) against {reference}, " + (f"{labels}, " if labels else "") +
        f"{width} features of {extractor}, layer {layer}"
    )
