"""Clusters of similar images, which replace the classes of a data set without labels."""

import numpy as np

from .arrays import Array

COMPONENTS, FITTED = 64, 5_000


def principal(features: Array, components: int = COMPONENTS) -> np.ndarray:
    """Features scaled to unit length, in their first principal components (fitted on at most 5,000 rows).

    Args:
        features: float [n, d].
        components: The largest number of components.

    Returns:
        float32 [n, c].
    """
    from sklearn.decomposition import PCA

    n, d = features.shape
    if n == 1:  # a single row has no principal components
        return np.zeros((1, 1), np.float32)

    def unit(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)

    some = np.sort(np.random.default_rng(0).permutation(n)[:FITTED])
    pca = PCA(min(components, d, len(some)), random_state=0).fit(unit(features[some]))
    return np.concatenate([pca.transform(unit(features[i : i + FITTED])) for i in range(0, n, FITTED)])


def cluster(features: Array, clusters: int) -> np.ndarray:
    """k-means clusters of features, scaled to unit length and in their first 64 principal components.

    Args:
        features: float [n, d].
        clusters: Number of clusters; n if that is smaller.

    Returns:
        int64 [n], the cluster 0..K-1 of each row; cluster 0 is the largest.
    """
    from sklearn.cluster import KMeans

    clusters = min(clusters, len(features))
    labels = KMeans(clusters, n_init=3, random_state=0).fit_predict(principal(features))
    order = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    return np.argsort(order)[labels].astype(np.int64)
