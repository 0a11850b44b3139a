"""Which samples an epoch visits, and with what weights: the data side of a training run.

A plan has ``epochs``, and ``epoch(e)`` returns the indices and weights of epoch e, not yet shuffled.  A plan
with ``needs_losses`` receives the losses through ``record``.  ``state`` and ``restore`` carry a plan over an
interruption.

To add a plan, subclass :class:`EpochPlan` and enter the class in ``REGISTRY``.
"""

from typing import Any

import numpy as np

from .arrays import check_labels, check_positions, whole
from .errors import DedtError
from .randomness import numpy_generator


class EpochPlan:
    """Visits the coreset in every epoch, and all samples in the annealing tail.

    Args:
        indices: int [m], positions of the coreset.
        total: Number of samples in the data.
        epochs: Number of epochs E.
        weights: float [m], one per kept sample, or None for ones.
        annealing_start: Share of the epochs after which all ``total`` samples are visited (0.875 in the
            paper, as in InfoBatch; Qin et al., 2024); 1 means never.
        tail_weights: float [total], weights of the samples in that tail, or None for ones (InfoBatch, too,
            resets its weights there).
        seed: Seed for subclasses that draw samples at random.

    Raises:
        DedtError: A position lies outside the data, or there is not one weight for each sample.
    """

    needs_losses = False

    def __init__(
        self,
        indices: np.ndarray,
        *,
        total: int,
        epochs: int,
        weights: np.ndarray | None = None,
        annealing_start: float = 1.0,
        tail_weights: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self.indices, self.seed = check_positions(indices, total), seed
        self.weights = as_weights(weights, len(self.indices))
        self.total, self.epochs = total, epochs
        self.tail_weights = as_weights(tail_weights, total)
        self.subset_epochs = whole(annealing_start * epochs)

    def epoch(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """(indices int64 [m], weights float64 [m]) of epoch ``e``."""
        if e < self.subset_epochs:
            return self.indices, self.weights
        return np.arange(self.total), self.tail_weights

    def sizes(self) -> list[int]:
        """Number of samples that each epoch visits, known before training."""
        return [len(self.epoch(e)[0]) for e in range(self.epochs)]

    def steps(self, batch_size: int) -> int:
        """Number of optimiser steps in the whole run."""
        return sum(-(-size // batch_size) for size in self.sizes())

    def state(self) -> dict[str, np.ndarray]:
        """State for a checkpoint; this plan has none."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Nothing to restore."""


class ClassDrawPlan(EpochPlan):
    """Class weights as sampling probabilities, as DoReMi uses them (Xie et al., 2023).

    Instead of weighting the loss, an epoch draws as many samples as the coreset holds: class i with
    probability alpha_i, then one of its images, with replacement.  The expected gradient is that of the
    weighted loss, but images are repeated at other rates.

    Args:
        indices: int [m], positions of the coreset.
        labels: int [m], their classes.
        class_weights: float [K], alpha.
        settings: Further arguments of EpochPlan; ``seed`` is the seed of the draws.
    """

    def __init__(
        self, indices: np.ndarray, labels: np.ndarray, class_weights: np.ndarray, **settings: Any
    ) -> None:
        super().__init__(indices, **settings)
        labels, class_weights = check_labels(labels), as_weights(class_weights, len(class_weights))
        counts = np.bincount(labels, minlength=len(class_weights))
        if len(counts) > len(class_weights) or class_weights[counts == 0].any():
            raise DedtError(
                f"The samples are of {np.count_nonzero(counts)} classes and there are {len(class_weights)} "
                "class weights: give each class one, and none to a class without a sample."
            )
        self.probabilities = (class_weights / np.maximum(counts, 1))[labels]
        self.probabilities /= self.probabilities.sum()

    def epoch(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """(indices int64 [m], weights float64 [m]) of epoch ``e``, with replacement before the tail."""
        indices, weights = super().epoch(e)
        if e >= self.subset_epochs:
            return indices, weights
        generator = numpy_generator(self.seed, "class sampler", e)
        drawn = generator.choice(len(indices), size=len(indices), p=self.probabilities)
        return indices[drawn], weights[drawn]


class InfoBatchPlan(EpochPlan):
    """InfoBatch (Qin et al., 2024): skip well-learned samples at random, give kept ones more weight.

    The score of a sample is its last training loss.  Samples with a score below the mean of all scores are
    "well learned".  Each epoch keeps a share 1 - prune_ratio of them, drawn without replacement, with weight
    1 / (1 - prune_ratio); all others are kept with weight one.  The first epoch and the last share 1 - delta
    of the epochs visit everything.

    Args:
        n: Number of samples.
        prune_ratio: r in [0, 1).
        delta: Share of the epochs with pruning.
        epochs: Number of epochs E.
        seed: Seed of the draws.
        budget: Instead of r, the share of the data that every pruning epoch visits, or None.  The kept share
            of the well-learned samples is then chosen to meet it.  If too few samples are well learned for
            that, the draw is from all samples alike.

    Raises:
        DedtError: The ratio or budget is out of range, or both or neither are given.
    """

    needs_losses = True

    def __init__(
        self,
        n: int,
        *,
        prune_ratio: float | None = None,
        delta: float = 0.875,
        epochs: int,
        seed: int = 0,
        budget: float | None = None,
    ) -> None:
        if (prune_ratio is None) == (budget is None):
            raise DedtError("InfoBatch needs either a prune_ratio or a budget, not both.")
        if prune_ratio is not None and not 0 <= prune_ratio < 1:
            raise DedtError(f"The prune ratio must lie in [0, 1); got {prune_ratio}.")
        if budget is not None and not 0 < budget <= 1:
            raise DedtError(f"The budget must lie in (0, 1]; got {budget}.")
        super().__init__(np.arange(n), total=n, epochs=epochs, annealing_start=delta, seed=seed)
        self.prune_ratio, self.budget = prune_ratio, budget
        self.scores = np.full(n, 3.0)  # the package's initial value; equal scores prune nothing
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None

    def epoch(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """(indices int64 [m], weights float64 [m]) of epoch ``e``, drawn from the scores at first call."""
        if e == 0 or e >= self.subset_epochs:
            return np.arange(self.total), np.ones(self.total)
        if self._drawn is None or self._drawn[0] != e:
            self._drawn = (e, *self._draw(e))
        return self._drawn[1:]

    @property
    def keep(self) -> float:
        """Share of the well-learned samples that is kept.

        It is 1 - r as in the package, which never keeps less than 0.1: so 1 - 0.9 is 0.1 there and not a
        little less.
        """
        assert self.prune_ratio is not None
        return 0.1 if self.prune_ratio == 0.9 else 1 - self.prune_ratio

    def _draw(self, e):
        # The mean of equal scores may be rounded up.
        well_learned = np.flatnonzero(self.scores < min(self.scores.mean(), self.scores.max()))
        if len(well_learned) == 0:
            return np.arange(self.total), np.ones(self.total)
        if self.budget is None:
            kept, weight = int(self.keep * len(well_learned)), 1 / self.keep
        else:
            wanted = round(self.budget * self.total)
            if wanted <= self.total - len(well_learned):
                well_learned = np.arange(self.total)
            kept = max(1, wanted - (self.total - len(well_learned)))
            weight = len(well_learned) / kept
        chosen = numpy_generator(self.seed, "infobatch", e).choice(well_learned, size=kept, replace=False)
        weights = np.ones(self.total)
        weights[chosen] = weight
        stays = np.ones(self.total, dtype=bool)
        stays[well_learned] = False
        stays[chosen] = True
        return np.flatnonzero(stays), weights[stays]

    def record(self, indices: np.ndarray, losses: np.ndarray) -> None:
        """Store the unweighted losses (float [b]) of the samples ``indices`` (int [b]) as their scores."""
        self.scores[np.asarray(indices)] = np.asarray(losses, dtype=np.float64)

    def sizes(self, least: bool = False) -> list[int]:
        """Highest, or with ``least`` lowest, number of samples that each epoch visits: the losses decide.

        A budget is met unless all losses are equal, so both are the same; a ratio is reached only if all
        samples are well learned.
        """
        pruned = round(self.budget * self.total) if self.budget is not None else self.total
        if self.prune_ratio is not None and least:
            pruned = int(self.keep * self.total)
        return [max(1, pruned) if 0 < e < self.subset_epochs else self.total for e in range(self.epochs)]

    def steps(self, batch_size: int) -> int:
        """Largest possible number of optimiser steps; the actual number depends on the losses."""
        return self.epochs * -(-self.total // batch_size)

    def state(self) -> dict[str, np.ndarray]:
        """State for a checkpoint: the scores and the draw of the current epoch, as arrays."""
        drawn = zip(("epoch", "indices", "weights"), self._drawn or ())
        return {"scores": self.scores, **{name: np.asarray(value) for name, value in drawn}}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a :meth:`state`."""
        self.scores = np.array(state["scores"])
        if "epoch" in state:
            self._drawn = (int(state["epoch"]), np.array(state["indices"]), np.array(state["weights"]))


REGISTRY: dict[str, type[EpochPlan]] = {"": EpochPlan}
"""Name in a recipe -> plan class, which takes the arguments of EpochPlan."""


def as_weights(weights: np.ndarray | None, count: int) -> np.ndarray:
    """Sample weights as float64 [count], ones for None; raises DedtError unless there is a valid one per sample."""
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (count,):
        raise DedtError(f"Got {weights.size} weights for {count} samples; expected one per sample.")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise DedtError("Sample weights must be finite and not negative.")
    return weights
