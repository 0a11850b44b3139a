"""Metrics of generated samples: FID, class-wise FID, KID, CMMD, precision and recall, near-copies.

Most metrics are functions of feature matrices, which ``encoders.embed`` computes from images.
"""

from collections.abc import Callable

import numpy as np

from .frechet import (
    FrechetReference,
    classwise_frechet,
    classwise_references,
    frechet_distance,
    gaussian_statistics,
    real_floor,
)
from .kernels import (
    KID_SUBSET_SIZE,
    KID_SUBSETS,
    MOST_EMBEDDED,
    MOST_PAIRED,
    both_cmmds,
    classwise_kid,
    cmmd,
    kid,
    kid_within,
    within_real,
)
from .neighbours import (
    MOST_NEIGHBOURS,
    SAME,
    THUMBNAIL,
    near,
    nearest_distances,
    nearest_features,
    neighbour_radii,
    precision_recall,
    views,
)
from .statistics import (
    concordance,
    detectable_difference,
    holm,
    mean_interval,
    paired_interval,
    paired_p,
    rank_correlation,
    spread,
)

METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {}
"""Name -> a metric of one's own: real FID features [n, d], generated ones [m, d] -> a number."""
