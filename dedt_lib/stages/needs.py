"""What a run needs of its images, known from the number of images in each class before anything is computed."""

from collections.abc import Sequence

from ..config.profile import Profile
from ..config.recipe import Recipe
from ..errors import DedtError
from ..selection import REGISTRY

REAL_IMAGES, SAMPLES = 4, 2
"""What FID needs of a side's images: two for a covariance, and on the real side four, for its own halves."""


def selection(recipe: Recipe, scope: str, counts: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a coreset that cannot be chosen.

    Args:
        recipe: says method and ratio.
        scope: "class" or "global".
        counts: training images of each class.
        names: of the classes.

    Raises:
        DedtError: a group has fewer images than the method needs, or no image is kept.
    """
    fewest, total = REGISTRY[recipe.method].fewest, sum(counts)
    few = [name for name, count in zip(names, counts) if count < fewest]
    if total < fewest if scope == "global" else few:
        raise DedtError(
            f"Class(es) {few_words(few)} have fewer than the {fewest} images that method '{recipe.method}' needs in "
            "each: add images, drop the class, or choose among the images of all classes (scope 'global')."
        )
    if sum(kept(recipe, scope, counts)) == 0:
        raise DedtError(
            f"Ratio {recipe.ratio:g} of {total} images keeps none: raise the ratio, or add images."
        )


def training(recipe: Recipe, scope: str, counts: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a model of classes of which its coreset keeps no image; arguments as of :func:`selection`."""
    if recipe.infobatch or recipe.early_stopping:
        return
    selection(recipe, scope, counts, names)
    of_each = kept(recipe, scope, counts)
    if len(of_each) == len(counts):
        no_empty_class(of_each, names, recipe.ratio, f"raise it to {enough(counts):g} or more, or add images")
    elif of_each[0] < len(counts):
        raise DedtError(
            f"Of {sum(counts)} images {of_each[0]} are kept, so some of the {len(counts)} classes keep no image at "
            f"ratio {recipe.ratio:g}: {ADVICE}."
        )


def evaluation(profile: Profile, recipe: Recipe, counts: Sequence[int]) -> None:
    """Refuse a measurement that cannot be had of any class."""
    if sum(counts) < REAL_IMAGES:
        raise DedtError(
            f"FID and its real-against-real value need {REAL_IMAGES} training images in all, and there are "
            f"{sum(counts)}: add images."
        )
    if profile.sample.count < SAMPLES:
        raise DedtError(f"FID needs {SAMPLES} samples at least: --set sample.count={SAMPLES} or more.")
    if len(counts) > 1:
        return
    if profile.evaluate.network == "classifier":
        raise DedtError(
            "FID is to be measured in the features of a classifier of these images, but they have one class, of "
            "which it would learn nothing: measure in those of Inception-v3 (--set evaluate.network=inceptionv3)."
        )
    if recipe.model != "unet" and profile.evaluate.cmmd == "clip" and not profile.encoders.clip.weights:
        raise DedtError(
            "CMMD is to be measured by a CLIP trained on these images, but they have one class, of which it would "
            "learn nothing: leave CMMD out (--set evaluate.cmmd='\"\"'), or give weights (--set encoders.clip.weights=openai)."
        )


def kept(recipe: Recipe, scope: str, counts: Sequence[int]) -> list[int]:
    """Images of each class that a coreset keeps, or in the scope "global" of all classes together."""
    sizes, selector = [sum(counts)] if scope == "global" else counts, REGISTRY[recipe.method]()
    return [selector.count(size, recipe.ratio, scope) for size in sizes]


def enough(counts: Sequence[int]) -> float:
    """A ratio, in thousandths, of which every class keeps an image."""
    return int(500 / min(counts) + 1) / 1000


ADVICE = "raise the ratio, add images, or choose within each class (scope 'class')"


def no_empty_class(counts: Sequence[int], names: Sequence[str], ratio: float, advice: str = ADVICE) -> None:
    """Refuse a coreset with a class that keeps no image; counts: its images of each class."""
    empty = [name for name, count in zip(names, counts) if count == 0]
    if empty:
        raise DedtError(f"Class(es) {few_words(empty)} keep no image at ratio {ratio:g}: {advice}.")


def left_out(counts: Sequence[int], drawn: Sequence[int], names: Sequence[str]) -> list[str]:
    """Classes that have no class-wise FID, with the reason, such as "cat (3 images)".

    Args:
        counts: images of each class.
        drawn: samples of each class.
        names: of the classes.

    Returns:
        The names, each with its reason.
    """
    found = []
    for name, images, samples in zip(names, counts, drawn):
        reasons = [f"{images} image{'' if images == 1 else 's'}"] if images < REAL_IMAGES else []
        reasons += [f"{samples} sample{'' if samples == 1 else 's'}"] if samples < SAMPLES else []
        found += [f"{name} ({', '.join(reasons)})"] if reasons else []
    return found


def few_words(words: Sequence[str], most: int = 20) -> str:
    """The words in a line, of many the first ones and how many more there are."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
