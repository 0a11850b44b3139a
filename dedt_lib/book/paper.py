"""The numbers that the paper reports (arXiv 2409.19128v2): FID on CIFAR-10, unless a table says otherwise."""

RATIOS = (0.1, 0.2, 0.3, 0.4)
FULL = 3.66
"""FID of the run on all the data."""
TABLE_1 = {
    "random": (8.12, 5.64, 4.86, 4.45),
    "inceptionv3-gaussian": (22.03, 15.65, 11.70, 9.34),
    "ddae-moderate": (7.54, 5.35, 4.69, 4.58),
    "clip-moderate": (7.78, 5.89, 5.04, 4.93),
    "moderate": (7.39, 5.26, 4.54, 4.31),
    "moderate-reweighted": (6.71, 4.95, 4.44, 4.18),
}
"""Row of ``grid.ROWS`` -> FID at each of RATIOS."""

TABLE_2 = {
    "infobatch-annealed": (5.09, 4.28, 4.23, 4.04),
    "moderate-reweighted-annealed": (4.58, 4.19, 4.12, 3.92),
}
"""FID with annealing, at each of RATIOS."""

TABLE_3 = {
    "moderate": (8.89, 4.55, 3.09, 2.36),
    "moderate-reweighted": (8.32, 4.48, 3.09, 2.34),
    "moderate-reweighted-annealed": (4.38, 3.14, 2.45, 2.02),
}
"""Training speed-up against the run on all the data, at each of RATIOS."""

TABLE_4_FID = {
    "mdt-random": {0.1: 130.81, 0.2: 51.18},
    "mdt-gaussian": {0.1: 95.68, 0.2: 18.49},
    "mdt-gaussian-reweighted": {0.1: 85.74, 0.2: 13.94},
    "mdt-moderate": {0.1: 123.60, 0.2: 50.63},
    "mdt-moderate-reweighted": {0.1: 115.62, 0.2: 47.85},
    "mdt-full": {1.0: 17.11},
}
"""FID of MDT on ImageNet-256."""

TABLE_4_CMMD = {
    "mdt-random": {0.1: 2.55, 0.2: 1.45},
    "mdt-gaussian": {0.1: 2.44, 0.2: 1.02},
    "mdt-gaussian-reweighted": {0.1: 2.22, 0.2: 0.91},
    "mdt-moderate": {0.1: 2.51, 0.2: 1.46},
    "mdt-moderate-reweighted": {0.1: 2.46, 0.2: 1.43},
    "mdt-full": {1.0: 0.86},
}
"""CMMD of MDT on ImageNet-256."""

TABLE_5 = {
    "sd-random": {0.2: 20.33, 0.4: 21.21, 0.6: 23.44},
    "sd-clip-moderate": {0.2: 20.27, 0.4: 20.20, 0.6: 23.19},
    "sd-moderate": {0.2: 20.05, 0.4: 18.51, 0.6: 20.94},
    "sd-full": {1.0: 25.91},
}
"""FID of Stable Diffusion on ImageNette-256."""


def by_ratio(table: dict, row: str) -> dict[float, float]:
    """The numbers of a row of one of these tables: ratio -> number; empty for a row that is not in it."""
    if row == "full" and (table is TABLE_1 or table is TABLE_2):
        return {1.0: FULL}
    numbers = table.get(row, {})
    return numbers if isinstance(numbers, dict) else dict(zip(RATIOS, numbers))
