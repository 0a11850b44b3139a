"""The paper's own numbers (arXiv 2409.19128v2), as data.  FID on CIFAR-10 unless a table says otherwise."""

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
"""Row of ``tables.ROWS`` -> FID at each of RATIOS."""

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
