"""How good the samples are: FID, class-wise FID, CMMD, near-copies.

The metrics are functions of feature matrices.  ``register_classifier`` offers the yardstick network
to torch-fidelity, so that its own metrics can run on the same features.
"""

import numpy as np

from .errors import DedtError
from .selection import check_features


def gaussian_statistics(features):
    """Mean [d] and unbiased covariance [d, d] of features [n, d], float64; raises DedtError for n < 2."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise DedtError(
            f"FID needs features of at least two images on each side; got shape {features.shape}."
        )
    check_features(features, np.zeros(len(features), dtype=np.int64))
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(real, generated):
    """Frechet distance between Gaussians fitted to two feature matrices (FID; Heusel et al., 2017).

    |mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^1/2), the last term through the symmetric form
    sum sqrt eig(S_r^1/2 S_g S_r^1/2): real-valued, and defined for singular covariances too.

    real: float [n, d].  generated: float [m, d].  Returns a float >= 0 up to rounding.
    """
    return frechet_between(gaussian_statistics(real), gaussian_statistics(generated))


def frechet_between(real, generated):
    """The same distance from two pairs (mean, covariance)."""
    (mean_r, covariance_r), (mean_g, covariance_g) = real, generated
    if len(mean_r) != len(mean_g):
        raise DedtError(f"Features of different width ({len(mean_r)} and {len(mean_g)}) cannot be compared.")
    values, vectors = np.linalg.eigh(covariance_r)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariance_g @ root)
    overlap = np.sqrt(np.maximum(product, 0)).sum()
    difference = mean_r - mean_g
    return float(difference @ difference + np.trace(covariance_r) + np.trace(covariance_g) - 2 * overlap)


def classwise_frechet(real, real_labels, generated, generated_labels):
    """Frechet distance of each class: float64 [K] (paper, Fig. 2).

    real: float [n, d] with labels int [n].  generated: float [m, d] with labels int [m].  The values carry
    the bias of their small sample, so compare them at equal counts only.  Raises DedtError for a class
    with fewer than two images on a side.
    """
    real, real_labels = check_features(real, real_labels)
    generated, generated_labels = check_features(generated, generated_labels)
    distances = []
    for k in range(int(max(real_labels.max(), generated_labels.max())) + 1):
        sides = real[real_labels == k], generated[generated_labels == k]
        if min(map(len, sides)) < 2:
            raise DedtError(
                f"Class {k} has {len(sides[0])} and {len(sides[1])} images to compare, and FID needs two on "
                "each side (four for the floor): add images of that class, or draw more samples."
            )
        distances.append(frechet_distance(*sides))
    return np.array(distances)


def real_floor(features, labels, *, splits=10, seed=0):
    """What FID says about two random halves of the real data: the floor under every printed value.

    features: float [n, d].  labels: int [n]; each class is halved.  Returns a dict with "fid" and
    "classwise" [K], each the mean over ``splits`` random halvings.
    """
    from .randomness import numpy_generator

    totals, classwise = [], []
    for split in range(splits):
        order = numpy_generator(seed, "floor", split).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        left, right = order[::2], order[1::2]
        totals.append(frechet_distance(features[left], features[right]))
        classwise.append(classwise_frechet(features[left], labels[left], features[right], labels[right]))
    return {"fid": float(np.mean(totals)), "classwise": np.mean(classwise, axis=0)}


def cmmd(real, generated, *, sigma=10.0, block=4096):
    """1000 times the squared maximum mean discrepancy with a Gaussian kernel (CMMD; Jayasumana et al., 2024).

    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)), all pairs counted, the diagonal too (the biased value of the
    published code).  real: float [n, d].  generated: float [m, d]; both L2-normalised embeddings.
    Memory is of the order of block^2.  Returns a float.
    """
    real, generated = np.asarray(real, dtype=np.float64), np.asarray(generated, dtype=np.float64)
    for features in (real, generated):
        check_features(features, np.zeros(len(features), dtype=np.int64))
    if real.shape[1] != generated.shape[1]:
        raise DedtError(f"Embeddings of width {real.shape[1]} and {generated.shape[1]} cannot be compared.")
    between = _mean_kernel(real, generated, sigma, block)
    return 1000 * (
        _mean_kernel(real, real, sigma, block)
        + _mean_kernel(generated, generated, sigma, block)
        - 2 * between
    )


def _mean_kernel(x, y, sigma, block):
    # The mean of k - 1: the ones cancel in the discrepancy, and expm1 keeps the digits that are left.
    x_norms, y_norms = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    total = 0.0
    for i in range(0, len(x), block):
        for j in range(0, len(y), block):
            squared = (
                x_norms[i : i + block, None]
                + y_norms[j : j + block]
                - 2 * x[i : i + block] @ y[j : j + block].T
            )
            total += np.expm1(-np.maximum(squared, 0) / (2 * sigma**2)).sum()
    return total / (len(x) * len(y))


def nearest_distances(images, references, *, block=512):
    """Pixel distance of each image to the nearest reference: (float64 [n], index int64 [n]).

    images: uint8 [n, C, H, W].  references: uint8 [m, C, H, W].  Root-mean-square difference, 0..255.
    """
    flat = np.asarray(references, dtype=np.float64).reshape(len(references), -1)
    norms = np.square(flat).sum(axis=1)
    distances, nearest = [], []
    for i in range(0, len(images), block):
        rows = np.asarray(images[i : i + block], dtype=np.float64).reshape(-1, flat.shape[1])
        squared = np.square(rows).sum(axis=1)[:, None] + norms - 2 * rows @ flat.T
        nearest.append(squared.argmin(axis=1))
        distances.append(np.sqrt(np.maximum(squared.min(axis=1), 0) / flat.shape[1]))
    return np.concatenate(distances), np.concatenate(nearest)


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


def extract_features(images, extractor, *, batch_size=256, cuda=False):
    """Features of uint8 images [n, C, H, W] by a torch-fidelity extractor (by name): float32 [n, d]."""
    import torch
    from torch_fidelity.utils import create_feature_extractor

    network = create_feature_extractor(extractor, ["features"], cuda=cuda, verbose=False)
    device = "cuda" if cuda else "cpu"
    with torch.no_grad():
        batches = torch.from_numpy(np.ascontiguousarray(images)).split(batch_size)
        return torch.cat([network(batch.to(device))[0].cpu() for batch in batches]).numpy()
