"""What a run needs of its images, known from their numbers in each class before anything is computed."""

import numpy as np

from .errors import DedtError
from .selection import moderate_order

REAL_IMAGES, SAMPLES = 4, 2
"""What FID needs of a side's images: two for a covariance, and on the real side four, for its own halves."""


def selection(recipe, scope, counts, names):
    """Refuse a coreset that cannot be chosen.  counts: training images of each class, with their names."""
    total, single = sum(counts), [name for name, count in zip(names, counts) if count < 2]
    if recipe.method == "gaussian" and (total < 2 if scope == "global" else single):
        raise DedtError(
            f"Class(es) {few_words(single)} have a single image, and a Gaussian needs two in each: add "
            "images, drop the class, or choose by one Gaussian of all (scope 'global')."
        )
    if sum(kept(recipe, scope, counts)) == 0:
        raise DedtError(
            f"Ratio {recipe.ratio:g} of {total} images keeps none: raise the ratio, or add images."
        )


def training(recipe, scope, counts, names):
    """Refuse a model of classes of which its coreset keeps no image."""
    if recipe.infobatch or recipe.early_stopping:
        return
    selection(recipe, scope, counts, names)
    of_each = kept(recipe, scope, counts)
    if len(of_each) == len(counts):
        no_empty_class(of_each, names, recipe.ratio, f"raise it to {enough(counts):g} or more, or add images")
    elif of_each[0] < len(counts):
        raise DedtError(
            f"Of {sum(counts)} images {of_each[0]} are kept, so some of the {len(counts)} classes keep no "
            f"image at ratio {recipe.ratio:g}: {ADVICE}."
        )


def evaluation(profile, recipe, counts):
    """Refuse a measurement that cannot be had of any class."""
    if sum(counts) < REAL_IMAGES:
        raise DedtError(
            f"FID and its real-against-real value need {REAL_IMAGES} training images in all, and there are "
            f"{sum(counts)}: add images."
        )
    if profile.samples < SAMPLES:
        raise DedtError(f"FID needs {SAMPLES} samples at least: --set samples={SAMPLES} or more.")
    if len(counts) > 1:
        return
    if profile.metric == "classifier":
        raise DedtError(
            "FID is to be measured in the features of a classifier of these images, but they have one class, "
            "of which it would learn nothing: measure in those of Inception-v3 (--set metric=inceptionv3)."
        )
    if recipe.model != "unet" and profile.cmmd == "clip" and not profile.clip_weights:
        raise DedtError(
            "CMMD is to be measured by a CLIP trained on these images, but they have one class, of which it "
            "would learn nothing: leave CMMD out (--set cmmd='\"\"'), or give weights (--set "
            "clip_weights=openai)."
        )


def kept(recipe, scope, counts):
    """Images of each class that a coreset keeps, or in the scope "global" of all classes together: a list."""
    sizes = [sum(counts)] if scope == "global" else counts
    if recipe.method == "moderate":
        return [moderate_order(np.zeros(size), recipe.ratio, scope)[1] for size in sizes]
    return [round(recipe.ratio * size) for size in sizes]


def enough(counts):
    """A ratio, in thousandths, of which every class keeps an image."""
    return int(500 / min(counts) + 1) / 1000


ADVICE = "raise the ratio, add images, or choose within each class (scope 'class')"


def no_empty_class(counts, names, ratio, advice=ADVICE):
    """Refuse a coreset with a class that keeps no image; counts: its images of each class."""
    empty = [name for name, count in zip(names, counts) if count == 0]
    if empty:
        raise DedtError(f"Class(es) {few_words(empty)} keep no image at ratio {ratio:g}: {advice}.")


def left_out(counts, drawn, names):
    """Classes that have no class-wise FID, with the reason: a list such as ["cat (3 images)"].

    counts, drawn: images and samples of each class.
    """
    found = []
    for name, images, samples in zip(names, counts, drawn):
        reasons = [f"{images} image{'' if images == 1 else 's'}"] if images < REAL_IMAGES else []
        reasons += [f"{samples} sample{'' if samples == 1 else 's'}"] if samples < SAMPLES else []
        found += [f"{name} ({', '.join(reasons)})"] if reasons else []
    return found


def few_words(words, most=20):
    """The words in a line, of many the first ones and how many more there are."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
