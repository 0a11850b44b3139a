"""How results were made and measured."""

import re
from typing import Any

import numpy as np
import pandas as pd

from ...config.profile import Profile, load_profile
from ..comparisons import seeds_in_words
from ..grid import LABELS, cells
from ..tables import percent
from .words import listed, seeds_listed


def made_in_words(frame: pd.DataFrame, table: str, profile: str | Profile) -> str:
    """How many results of a table exist and are missing, with their dates, machines and PyTorch versions."""
    wanted, there = set(cells(table, profile)), list(zip(frame.row, frame.ratio, frame.seed))
    own = frame[np.array([cell in wanted for cell in there], dtype=bool)]
    if own.empty:
        return "No results yet."
    notes = [result["provenance"] for result in own.result]
    dates = sorted({note["date"] for note in notes})
    missing = len(wanted - set(there))
    return (
        f"{len(own)} run{'s' * (len(own) > 1)} over {seeds_in_words(own.seed.nunique())}"
        + (f" ({missing} more still missing)" if missing else "")
        + f", computed on {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}"
        f" on {listed(sorted({note['machine'] for note in notes}))}"
        f" with PyTorch {listed(sorted({note['versions']['torch'] for note in notes}))}."
    )


def floor_in_words(result: dict[str, Any]) -> str:
    """The FID of real images, held-out and half against half, from the result of a cell."""
    floor, held_out = result["floor"]["fid"], result.get("held_out_fid")
    m, n = map(int, re.findall(r"FID of (\d+) samples .* all (\d+) training", result["protocol"])[0])
    said = f"The FID of held-out real images is {held_out:.2f}. " if held_out is not None else ""
    return (
        f"{said}The real-vs-real FID, between two random halves of the real images, is {floor:.2f}. The bias "
        "of FID is roughly proportional to 1/m + 1/n for m images on one side and n on the other. Each half "
        f"has {n // 2:,} images; for {m:,} samples of a model against all {n:,} real images, the "
        f"real-vs-real FID would be about {floor * (1 / m + 1 / n) * n / 4:.2f}."
    )


def fid_network_in_words(profile: str | Profile) -> str:
    """What the FID network of a profile shares with the ResNet-18 that selects, and what was not tried."""
    settings = load_profile(profile)
    own, chooser = settings.evaluate, settings.encoders.resnet18
    if own.network == "inceptionv3":
        return "The FID network is the published Inception-v3."
    alike = own.network == "resnet18" and own.width == chooser.width
    kind = "of the same architecture and width as" if alike else "of another architecture or width than"
    other = " No second feature space was tried." * (own.networks == 1 and not own.cmmd)
    name = {"resnet18": "ResNet-18", "classifier": "small classifier"}[own.network]
    return (
        f"The FID network, a {name} of width {own.width}, is {kind} the ResNet-18 that selects. It was "
        f"trained on the same images, from {seeds_in_words(own.networks)} ({own.epochs} epochs; the one that "
        f"selects: {chooser.epochs}).{other}"
    )


def reconstruction_in_words(price: dict[str, Any]) -> str:
    """The FID that the autoencoder alone costs, from ``results.reconstruction``; "" if not measured."""
    if not price:
        return ""
    return (
        f"The training images, encoded and decoded, have an FID of {price['fid']:.2f} against themselves "
        f"(an error of {price['error']:.0f} grey levels). Every sample has passed through the same decoder, "
        "so much lower values are not to be expected. FIDs do not add, so this is not a part of those below."
    )


def shared_in_words(frame: pd.DataFrame) -> str:
    """Which cells were measured with another FID network than others, by their protocols; "" if none were."""
    network = frame.result.map(
        lambda result: result["protocol"].partition(" features of ")[2].partition(",")[0]
    )
    if network.nunique() < 2:
        return ""
    floors = frame.result.map(lambda result: result["floor"]["fid"])
    apart = floors.max() / floors.min() - 1
    head = (
        f"These runs were measured with {network.nunique()} FID networks, trained separately (the "
        f"real-vs-real FIDs differ by at most {apart:.0e} of the value)."
    )
    if (network.groupby(frame.seed).nunique() == 1).all():
        seeds = sorted(sorted(set(own)) for _, own in frame.seed.groupby(network))
        shared = "; another one ".join(map(seeds_listed, seeds))
        return f"{head} One measured {shared}. So both sides of every difference have the same network."
    usual = network.groupby([frame.seed, frame.ratio]).transform(lambda own: own.mode()[0])
    other = frame[network != usual]
    runs = "; ".join(
        f"*{LABELS[row]}* at {percent(ratio)} ({seeds_listed(own.seed)})"
        for (row, ratio), own in other.groupby(["row", "ratio"])
    )
    if other.empty:
        return (
            f"{head} Runs of one seed and one share of the images have the same one; a difference between two "
            "shares may include what the networks differ by."
        )
    were = "was" if len(other) == 1 else "were"
    return (
        f"{head} Of the {len(frame)} runs that this page compares, {len(other)} {were} measured with another "
        f"one than most runs of their seed and ratio: {runs}. A difference with such a run also includes "
        "what the networks differ by."
    )


def steps_in_words(frame: pd.DataFrame) -> str:
    """FID at the last step and the lowest FID before it, by ratio, from ``results.fid_over_steps``."""
    said = []
    for ratio, own in frame.groupby("ratio", sort=False):
        means = own.groupby("steps")["fid"].mean()
        end, before = means.index[-1], means.iloc[:-1]
        which = "all the data" if ratio == 1 else f"a random {percent(ratio)}"
        trend = ", lower than at any earlier point" * (len(before) > 0)
        if means[end] >= before.min():
            trend = f", after a minimum of {before.min():.2f}"
        said.append(f"with {which} it is {means[end]:.2f} after {end:,} steps{trend}")
    seeds = frame["seed"].nunique()
    alone = ", so no interval" * (seeds == 1)
    return f"FID at the end ({seeds_in_words(seeds)}{alone}): {'; '.join(said)}." if said else ""
