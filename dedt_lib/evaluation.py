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


def classwise_references(features, labels):
    """The :class:`FrechetReference` of each class, for :func:`classwise_frechet`: a list of K.

    features: float [n, d].  labels: int [n].  Raises DedtError for a class with fewer than two images.
    """
    features, labels = check_features(features, labels)
    counts = np.bincount(labels)
    if counts.min() < 2:
        raise DedtError(
            f"Class {counts.argmin()} has {counts.min()} images, and FID needs two: add images of that class."
        )
    return [FrechetReference.of(features[labels == k]) for k in range(len(counts))]


def classwise_frechet(real, real_labels, generated, generated_labels):
    """Frechet distance of each class: float64 [K] (paper, Fig. 2).

    real: float [n, d] with labels int [n]; or the list of :func:`classwise_references` with None.
    generated: float [m, d] with labels int [m].  The values carry the bias of their small sample, so
    compare them at equal counts only.  Raises DedtError for a class with fewer than two images on a side.
    """
    sides = _classes(real, real_labels, generated, generated_labels)
    return np.array([frechet_distance(*pair) for pair in sides])


def classwise_kid(real, real_labels, generated, generated_labels):
    """Kernel distance of each class (see :func:`kid`): float64 [K], comparable between counts.

    real: float [n, d] with labels int [n].  generated: float [m, d] with labels int [m].  Raises DedtError
    for a class with fewer than two images on a side.
    """
    sides = _classes(real, real_labels, generated, generated_labels)
    return np.array([kid(*pair) for pair in sides])


def _classes(real, real_labels, generated, generated_labels):
    """What is compared in each class: pairs (real, generated)."""
    generated, generated_labels = check_features(generated, generated_labels)
    if real_labels is None:
        classes = len(real)
    else:
        real, real_labels = check_features(real, real_labels)
        classes = int(real_labels.max()) + 1

    def real_side(k):
        if real_labels is None:
            return real[k] if k < classes else ()
        return real[real_labels == k]

    for k in range(max(classes, int(generated_labels.max()) + 1)):
        sides = real_side(k), generated[generated_labels == k]
        if min(map(len, sides)) < 2:
            raise DedtError(
                f"Class {k} has {len(sides[0])} and {len(sides[1])} images to compare, and FID needs two on "
                "each side (four for the floor): add images of that class, or draw more samples."
            )
        yield sides


def real_floor(features, labels, *, splits=10, seed=0, classwise=True):
    """What FID says about two random halves of the real data: the floor under every printed value.

    features: float [n, d].  labels: int [n]; each class is halved.  Returns a dict with "fid" and
    "classwise" [K], each the mean over ``splits`` random halvings; without ``classwise`` the latter is empty.
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
            of_classes.append(classwise_frechet(*sides))
    return {
        "fid": float(np.mean(totals)),
        "classwise": np.mean(of_classes, axis=0) if classwise else np.empty(0),
    }


def cmmd(real, generated, *, sigma=10.0, unbiased=False, block=1024):
    """1000 times the squared maximum mean discrepancy with a Gaussian kernel (CMMD; Jayasumana et al., 2024).

    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)).  By default every image is paired with itself too: the biased
    value of the published code, to compare with published numbers.  unbiased: without those pairs, so that
    the expectation does not depend on the number of images; around zero, also below it, for equal
    distributions.

    real: float [n, d].  generated: float [m, d]; both L2-normalised embeddings.  Scalar products are taken in
    the inputs' precision, single or double, all else in double.  Memory beyond the inputs is of the order of
    block^2.  Returns a float.  Raises DedtError for non-finite embeddings, other widths, and fewer images
    than one on each side (two if unbiased).
    """
    real, generated = check_finite(real), check_finite(generated)
    if real.shape[1] != generated.shape[1]:
        raise DedtError(f"Embeddings of width {real.shape[1]} and {generated.shape[1]} cannot be compared.")
    least = 2 if unbiased else 1
    if min(len(real), len(generated)) < least:
        raise DedtError(
            f"CMMD needs at least {least} embeddings on each side; got {len(real)} and {len(generated)}."
        )
    dtype = np.result_type(real, generated, np.float32)
    kernel = functools.partial(_gaussian_kernel, sigma=float(sigma), dtype=dtype)
    return 1000 * _discrepancy(kernel, real, generated, unbiased, block)


def kid(real, generated, *, block=1024):
    """Unbiased squared maximum mean discrepancy with k(x, y) = (x.y / d + 1)^3 (KID; Binkowski et al., 2018).

    Its expectation does not depend on the number of images, unlike that of FID, so it suits classes with few.
    real: float [n, d].  generated: float [m, d]; the same features as for FID, all pairs at once instead of
    random subsets, in float64.  Returns a float around zero, also below it, for equal distributions; tables
    often show 1000 times the value.  Raises DedtError for fewer than two images, non-finite features or other
    widths.
    """
    return _discrepancy(_cubic_kernel, *_comparable(real, generated), True, block)


def _comparable(real, generated):
    real, generated = _check_side(real), _check_side(generated)
    if real.shape[1] != generated.shape[1]:
        raise DedtError(
            f"Features of different width ({real.shape[1]} and {generated.shape[1]}) cannot be compared."
        )
    return real, generated


def _discrepancy(kernel, real, generated, unbiased, block):
    """Squared maximum mean discrepancy: mean kernels within both sets, less twice the one between them."""
    within = [_mean_kernel(kernel, side, side, block, distinct=unbiased) for side in (real, generated)]
    return float(sum(within) - 2 * _mean_kernel(kernel, real, generated, block))


def _mean_kernel(kernel, x, y, block, distinct=False):
    """Mean of ``kernel(rows, columns)`` over all pairs; with ``distinct`` those of different rows only."""
    within, total = y is x, 0.0
    for rows, columns in itertools.product(_blocks(len(x), block), _blocks(len(y), block)):
        if within and columns.start < rows.start:
            continue  # The kernel is symmetric: the block on the other side of the diagonal counts twice.
        values = kernel(x[rows], y[columns])
        total += (2 if within and columns.start > rows.start else 1) * values.sum()
        if distinct and rows == columns:
            # An image paired with itself says nothing about a second draw from its distribution.
            total -= values.trace()
    return total / (len(x) * (len(y) - 1 if distinct else len(y)))


def _blocks(n, block):
    """The indices 0..n-1 in slices of at most ``block``."""
    return [slice(i, i + block) for i in range(0, n, block)]


def _cubic_kernel(x, y):
    base = x.astype(np.float64) @ y.astype(np.float64).T
    base /= x.shape[1]
    base += 1
    return base * base * base


def _gaussian_kernel(x, y, sigma, dtype):
    # k - 1: the ones cancel in the discrepancy, and expm1 keeps the digits that are left.
    x, y = x.astype(dtype) / sigma, y.astype(dtype) / sigma
    exponent = x @ y.T
    exponent -= np.square(x).sum(axis=1, keepdims=True) / 2
    exponent -= np.square(y).sum(axis=1) / 2
    return np.expm1(exponent, dtype=np.float64)  # in single precision NumPy's is biased in the seventh digit


def precision_recall(real, generated, *, k=3, block=1024):
    """Share of samples that look real, and of the real images that are covered (Kynkaanniemi et al., 2019).

    Around each image of a set lies a ball that reaches to its k-th nearest neighbour in that set.  Precision
    is the share of generated images in a ball of a real one, recall that of real images in a ball of a
    generated one.  Both depend on the number of images: compare them at equal counts only.

    real: float [n, d].  generated: float [m, d]; the same features as for FID.  Returns (precision, recall),
    floats in 0..1.  Memory beyond the inputs is of the order of block^2.  Raises DedtError for k images or
    fewer on a side, non-finite features or widths that differ.
    """
    real, generated = _comparable(real, generated)
    if min(len(real), len(generated)) <= k:
        raise DedtError(
            f"The {k}-th nearest neighbour needs more than {k} images on each side; got {len(real)} and "
            f"{len(generated)}. Lower k, or draw more samples."
        )
    real_radii, generated_radii = (_squared_radii(side, k, block) for side in (real, generated))
    covered, realistic = np.zeros(len(real), dtype=bool), np.zeros(len(generated), dtype=bool)
    for rows, columns in itertools.product(_blocks(len(real), block), _blocks(len(generated), block)):
        squared = _squared_distances(real[rows], generated[columns])
        realistic[columns] |= (squared <= real_radii[rows, None]).any(axis=0)
        covered[rows] |= (squared <= generated_radii[columns]).any(axis=1)
    return float(realistic.mean()), float(covered.mean())


def _squared_radii(features, k, block):
    """Squared distance of each row to its k-th nearest neighbour: float64 [n]."""
    radii = np.empty(len(features))
    for rows in _blocks(len(features), block):
        nearest = np.empty((len(features[rows]), 0))
        for columns in _blocks(len(features), block):
            squared = np.hstack([nearest, _squared_distances(features[rows], features[columns])])
            # One more than k, because each row is the nearest to itself.
            nearest = np.partition(squared, min(k, squared.shape[1] - 1), axis=1)[:, : k + 1]
        radii[rows] = nearest.max(axis=1)
    return radii


def _squared_distances(x, y):
    """Squared Euclidean distances of rows x [n, d] and y [m, d]: float64 [n, m], exact for 8-bit values."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squared = x @ y.T
    squared *= -2
    squared += np.square(x).sum(axis=1, keepdims=True)
    squared += np.square(y).sum(axis=1)
    return np.maximum(squared, 0, out=squared)


def nearest_distances(images, references, *, block=512):
    """Pixel distance of each image to the nearest reference: (float64 [n], index int64 [n]).

    images: uint8 [n, C, H, W].  references: uint8 [m, C, H, W], memory-mapped or not; they are read once, a
    block at a time.  Root-mean-square difference, 0..255.  Sides longer than THUMBNAIL pixels are first
    brought down to that by the means of areas: a copy is still a copy, and its noise counts for less.
    Raises DedtError for anything but uint8 images of one shape.
    """
    _check_images(images)
    _check_images(references)
    if images.shape[1:] != references.shape[1:]:
        raise DedtError(
            f"Images {list(images.shape[1:])} and references {list(references.shape[1:])} cannot be compared."
        )
    small = np.concatenate([_thumbnails(images[part]) for part in _blocks(len(images), block)])
    least, nearest = np.full(len(images), np.inf), np.zeros(len(images), dtype=np.int64)
    for columns in _blocks(len(references), block):
        others = _thumbnails(references[columns])
        for rows in _blocks(len(images), block):
            squared = _squared_distances(small[rows], others)
            closer = squared.min(axis=1) < least[rows]
            nearest[rows] = np.where(closer, columns.start + squared.argmin(axis=1), nearest[rows])
            least[rows] = np.minimum(squared.min(axis=1), least[rows])
    return np.sqrt(least / small.shape[1]), nearest


def _thumbnails(images):
    """Images [n, C, H, W] as rows, no side longer than THUMBNAIL: uint8, or float32 where any was."""
    import torch

    height, width = images.shape[2:]
    if max(height, width) > THUMBNAIL:
        size = min(height, THUMBNAIL), min(width, THUMBNAIL)
        # A few at a time, because as floats they take four times the memory.
        parts = torch.from_numpy(np.array(images)).split(64)
        images = torch.cat([torch.nn.functional.adaptive_avg_pool2d(part.float(), size) for part in parts])
        images = images.numpy()
    return images.reshape(len(images), -1)


def copy_threshold(train, test, *, quantile=0.01):
    """A distance so small that only ``quantile`` of unseen real images lie that near to a training image.

    train, test: uint8 images.  Returns a float on the scale of :func:`nearest_distances`.
    """
    return float(np.quantile(nearest_distances(test, train)[0], quantile))


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
        batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
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


def protocol(*, samples, reference, width, extractor, layer, seed):
    """What an FID was measured with, as the words to print beside it.

    samples: int, how many were drawn, with the seed ``seed``.  reference: the real side in words.
    width: int, features of ``layer`` of the extractor.
    """
    return (
        f"FID of {samples} samples (seed {seed}) against {reference}, "
        f"{width} features of {extractor}, layer {layer}"
    )
