"""Losses to class weights: group DRO of a proxy against a reference (paper, Eq. 2).

``update_weights`` is the pure step.  ``GroupDRO`` is the hook that the training loop calls while it
trains the proxy; its recorded trajectory gives the averaged weights.
"""

import numpy as np
import torch

from .errors import DedtError
from .processes import Processes
from .recipes import ABSENT, CLIPS, SCORES
from .selection import check_choice, class_to_sample_weights


def update_weights(weights, excess, *, step_size=1.0, smoothing=1e-3):
    """One step of group DRO: exponentiated gradient ascent, then smoothing towards uniform.

    alpha' proportional to alpha exp(eta lambda);  alpha = (1 - c) alpha' + c / K
    (Xie et al., 2023, Algorithm 1; Sagawa et al., 2020).

    weights: float [K], positive, sums to one.  excess: float [K], the class means lambda of the clipped
    excess loss, already >= 0.  step_size: eta.  smoothing: c in [0, 1].  Returns float64 [K].
    """
    weights, excess = np.asarray(weights, dtype=np.float64), np.asarray(excess, dtype=np.float64)
    if weights.shape != excess.shape or not np.isfinite([weights, excess]).all():
        raise DedtError("Class weights and excess losses must be finite, one for every class.")
    logits = np.log(weights) + step_size * excess
    raised = np.exp(logits - logits.max())
    raised /= raised.sum()
    return (1 - smoothing) * raised + smoothing / len(weights)


def class_excess(losses, reference_losses, labels, previous, *, clip="sample"):
    """Clipped excess loss of each class in a batch.

    lambda_i = mean over the batch's samples of class i of max(l - l_ref, 0); with clip "class" the mean
    is taken first and clipped after, which is Eq. 2 to the letter; with clip "element" every pixel is
    clipped before the mean, as DoReMi clips every token.  A class that is absent from the
    batch keeps its ``previous`` value (the rule of the DoReMi code).

    losses, reference_losses: float [b]; for clip "element" float [b, ...], one for every pixel.
    labels: int [b].  previous: float [K].
    Returns (float64 [K], fraction of samples (or pixels) whose excess was clipped to zero).
    """
    excess = np.asarray(losses, dtype=np.float64) - np.asarray(reference_losses, dtype=np.float64)
    clipped = excess if clip == "class" else np.maximum(excess, 0)
    clipped = clipped.reshape(len(clipped), -1).mean(axis=1)
    K = len(previous)
    counts = np.bincount(labels, minlength=K)
    means = np.bincount(labels, weights=clipped, minlength=K) / np.maximum(counts, 1)
    return np.where(counts > 0, np.maximum(means, 0), previous), float((excess <= 0).mean())


def average_weights(trajectory, start=0):
    """Mean of alpha^t over the recorded steps from ``start`` on (paper, end of Section III-C).

    trajectory: float [T, K].  Returns float64 [K], sums to one.
    """
    average = np.asarray(trajectory, dtype=np.float64)[start:].mean(axis=0)
    return average / average.sum()


def effective_classes(weights):
    """exp of the entropy of alpha: K when the weights are uniform, 1 when one class has everything.

    weights: float [..., K].  Returns float64 [...].
    """
    weights = np.asarray(weights, dtype=np.float64)
    return np.exp(-(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=-1))


class GroupDRO:
    """Weights the proxy's samples by class and moves the class weights towards the largest excess.

    reference: frozen model with the proxy's interface.  counts: int [K], the coreset's images per class.
    burn_in: steps in which the weights stay uniform; the average starts after them (0: the literal
    algorithm).  window: share of the steps after the burn-in, counted from the end, that the average is over.
    absent: what a class without samples in the batch brings to the step, its "previous" excess (DoReMi's
    code) or "zero", so that only the classes present gain.  scores: whether the losses that are compared
    carry the proxy's dropout ("train", DoReMi's code, whose networks have none; dropout makes every excess
    larger) or not ("eval", another forward pass).  processes: those that share the batch.
    The weights of step t are updated before they weigh the proxy's loss of step t.
    Raises DedtError for a class without images or an unknown choice.
    """

    def __init__(
        self,
        reference,
        counts,
        *,
        step_size=1.0,
        smoothing=1e-3,
        clip="sample",
        absent="previous",
        scores="train",
        burn_in=0,
        window=1.0,
        processes=None,
    ):
        check_choice("clip level", clip, CLIPS)
        check_choice("rule for absent classes", absent, ABSENT)
        check_choice("mode of the scores", scores, SCORES)
        self.reference = reference.eval().requires_grad_(False)
        self.counts = np.asarray(counts)
        K = len(self.counts)
        class_to_sample_weights(np.full(K, 1 / K), self.counts)
        self.step_size, self.smoothing, self.clip, self.absent = step_size, smoothing, clip, absent
        self.scores = scores
        self.burn_in, self.window, self.processes = burn_in, window, processes or Processes()
        self.weights = np.full(K, 1 / K)
        self.excess = np.zeros(K)
        self.trajectory, self.excess_history, self.clipped_history = [], [], []

    def __call__(self, losses, batch, proxy=None):
        """Sample weights [b] for the losses [b] of this batch; records one step of the trajectory.

        proxy: the model whose losses these are.  Clip "element" asks it for its losses pixel by pixel, and a
        model with ``margin_losses`` is compared by those: MDT's loss weighs timesteps and masks tokens.
        """
        labels = batch.labels.cpu().numpy()
        previous = self.excess if self.absent == "previous" else np.zeros_like(self.excess)
        of_both = "element_losses" if self.clip == "element" else "margin_losses"
        compared = of_both if hasattr(self.reference, of_both) else "losses"
        if self.scores == "eval":
            proxy.eval()
        if compared != "losses" or self.scores == "eval":
            losses = self._all_rows(getattr(proxy, compared), batch)
        if self.scores == "eval":
            proxy.train()
        reference_losses = self._all_rows(getattr(self.reference, compared), batch)
        self.excess, clipped = class_excess(
            losses.float().cpu().numpy(),
            reference_losses.float().cpu().numpy(),
            labels,
            previous,
            clip=self.clip,
        )
        if len(self.trajectory) >= self.burn_in:
            self.weights = update_weights(
                self.weights, self.excess, step_size=self.step_size, smoothing=self.smoothing
            )
        self.trajectory.append(self.weights)
        self.excess_history.append(self.excess)
        self.clipped_history.append(clipped)
        weight_of_class = class_to_sample_weights(self.weights, self.counts)
        return torch.from_numpy(weight_of_class[labels]).to(batch.images)

    @torch.no_grad()
    def _all_rows(self, losses_of, batch):
        return self.processes.gather(losses_of(self.processes.mine(batch)), len(batch))

    @property
    def average(self):
        """The averaged class weights so far: float64 [K]."""
        moved = len(self.trajectory) - self.burn_in
        return average_weights(self.trajectory, self.burn_in + int((1 - self.window) * moved))

    def state(self):
        """Everything that a resumed run needs, as tensors."""
        return {
            "trajectory": torch.from_numpy(np.array(self.trajectory)),
            "excess": torch.from_numpy(np.array(self.excess_history)),
            "clipped": torch.tensor(self.clipped_history, dtype=torch.float64),
        }

    def restore(self, state):
        """Go on from a :meth:`state`."""
        self.trajectory = list(state["trajectory"].numpy())
        self.excess_history = list(state["excess"].numpy())
        self.clipped_history = state["clipped"].tolist()
        self.weights, self.excess = self.trajectory[-1], self.excess_history[-1]
