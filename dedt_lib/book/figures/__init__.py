"""All plots of the book, one function each.  Each returns a matplotlib Figure and does not display it."""

from .common import class_columns, tile
from .latents import guidance_schedule, latent_histogram, loss_by_timestep, masked_tokens, posteriors
from .photos import faults, feature_map, knee
from .sample import image_grid, image_rows, image_sheets, nearest_histogram, nearest_pairs
from .select import (
    class_counts,
    distance_strips,
    example_images,
    feature_planes,
    kept_and_removed,
    kept_by_ratio,
    neighbours,
    overlap_map,
    score_histogram,
    score_plane,
)
from .tables import (
    changes,
    classwise_bars,
    cost_bars,
    differences,
    fid_by_images,
    fid_by_ratio,
    fid_over_steps,
    figure_2,
    front_page,
    metrics_by_ratio,
    rank_slopes,
    speedup_by_ratio,
    weight_and_difficulty,
    weights_by_seed,
)
from .train import (
    class_draws,
    clipped_share,
    epoch_losses,
    epoch_sizes,
    group_weights,
    loss_curves,
    losses_by_timestep,
    reweighting_signal,
    weight_trajectories,
)
