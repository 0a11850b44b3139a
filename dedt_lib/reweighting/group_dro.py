"""Group DRO of a proxy against a reference (paper, Eq. 2).

``update_weights`` is the pure step.  ``GroupDRO`` is the hook that the training loop calls while it trains
the proxy; its recorded trajectory gives the averaged weights.  Arrays are from NumPy or PyTorch; the values
of tensors are not read from their device.
"""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from ..arrays import check_choice, whole
from ..devices import FLUSH, History
from ..errors import DedtError
from ..models.batch import Batch
from ..processes import Processes
from ..selection import class_to_sample_weights
from . import ABSENT, CLIPS, RULES, SCORES, USUAL

Array: TypeAlias = np.ndarray | torch.Tensor


def update_weights(
    weights: Array, excess: Array, *, step_size: float = 1.0, smoothing: float = 1e-3
) -> Array:
    """One step of group DRO: exponentiated gradient ascent, then smoothing towards uniform.

    alpha' proportional to alpha exp(eta lambda);  alpha = (1 - c) alpha' + c / K
    (Xie et al., 2023, Algorithm 1; Sagawa et al., 2020).

    Args:
        weights: float [K], positive, sums to one.
        excess: float [K], the class means lambda of the clipped excess loss, already >= 0.
        step_size: eta.
        smoothing: c in [0, 1].

    Returns:
        float64 [K].

    Raises:
        DedtError: The shapes differ, c is out of range, or (NumPy arrays) a number is not finite.
    """
    if not 0 <= smoothing <= 1:
        raise DedtError(f"The smoothing c must lie in [0, 1]; got {smoothing}.")
    xp, weights, excess = _float64(weights, excess)
    if weights.shape != excess.shape or (xp is np and not np.isfinite([weights, excess]).all()):
        raise DedtError("Class weights and excess losses must be finite numbers, one per class.")
    logits = xp.log(weights) + step_size * excess
    raised = xp.exp(logits - logits.max())
    raised = raised / raised.sum()
    return (1 - smoothing) * raised + smoothing / len(weights)


def class_excess(
    losses: Array, reference_losses: Array, labels: Array, previous: Array, *, clip: str = "sample"
) -> tuple[Array, Array]:
    """Clipped excess loss of each class in a batch.

    lambda_i = mean of max(l - l_ref, 0) over the samples of class i in the batch.  With clip "class" the mean
    is clipped instead, which is Eq. 2 literally; with clip "element" every pixel is clipped before the mean,
    as DoReMi clips every token.  A class that is absent from the batch keeps its ``previous`` value, as in
    DoReMi's code.

    Args:
        losses: float [b]; for clip "element" float [b, ...], one per pixel.
        reference_losses: As ``losses``.
        labels: int [b].
        previous: float [K].
        clip: One of CLIPS.

    Returns:
        (float64 [K], share of samples (or pixels) whose excess is not above zero).

    Raises:
        DedtError: The clip level is unknown.
    """
    check_choice("clip level", clip, CLIPS)
    xp, losses, reference_losses, previous = _float64(losses, reference_losses, previous)
    excess = losses - reference_losses
    clipped = excess if clip == "class" else excess.clip(0)
    clipped = clipped.reshape(len(clipped), -1).mean(1)
    labels = xp.asarray(labels)
    # Every process must get identical sums, and atomic additions have no fixed order.
    members = labels == xp.arange(len(previous), device=labels.device)[:, None]
    counts = members.sum(1)
    means = xp.where(members, clipped, 0.0).sum(1) / counts.clip(1)
    return xp.where(counts > 0, means.clip(0), previous), _float64(excess <= 0)[1].mean()


def _float64(*arrays: Any) -> tuple[Any, ...]:
    """The library of the arrays (NumPy or PyTorch), then the arrays as float64."""
    if isinstance(arrays[0], torch.Tensor):
        return torch, *(values.double() for values in arrays)
    return np, *(np.asarray(values, dtype=np.float64) for values in arrays)


def average_weights(trajectory: np.ndarray, start: int = 0) -> np.ndarray:
    """Mean of alpha^t over the recorded steps from ``start`` on (paper, end of Section III-C).

    Args:
        trajectory: float [T, K].
        start: First step of the average.

    Returns:
        float64 [K], sums to one.

    Raises:
        DedtError: No step is left to average.
    """
    if not start < len(trajectory):
        raise DedtError(f"No step of {len(trajectory)} is left to average after {start}.")
    average = np.asarray(trajectory, dtype=np.float64)[start:].mean(axis=0)
    return average / average.sum()


def effective_classes(weights: np.ndarray) -> np.ndarray:
    """Effective number of classes, exp of the entropy of alpha: K if uniform, 1 if one class has all weight.

    Args:
        weights: float [..., K].

    Returns:
        float64 [...].
    """
    weights = np.asarray(weights, dtype=np.float64)
    return np.exp(-(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=-1))


class GroupDRO:
    """Weights the proxy's samples by class, and moves the class weights towards the largest excess.

    The weights are updated in step t before they are applied to the proxy's loss of step t.

    Args:
        reference: Model with the interface of the proxy; it is frozen.
        counts: int [K], images of each class in the coreset.
        step_size, smoothing: As in :func:`update_weights`.
        clip: As in :func:`class_excess`.
        absent: Excess of a class without samples in the batch: the "previous" one (DoReMi's code) or "zero",
            so that only the classes in the batch gain.
        scores: Mode of the proxy for the losses that are compared.  "train": with dropout, which makes every
            excess larger (DoReMi's code, whose networks have none).  "eval": without it, which costs another
            forward pass.
        burn_in: Steps in which the weights stay uniform; the average starts after them (0: the literal
            algorithm).
        window: Share of the steps after the burn-in, counted from the end, that is averaged.
        processes: Processes that share the batch.

    Attributes:
        settings: The arguments that decide its weights, by name.
        weights, excess: float64 [K] after the last step, on the device of its losses.

    Raises:
        DedtError: A class has no images, a choice is unknown, or the reference has no losses per pixel for
            clip "element".
    """

    def __init__(
        self,
        reference: nn.Module,
        counts: np.ndarray,
        *,
        step_size: float = 1.0,
        smoothing: float = 1e-3,
        clip: str = "sample",
        absent: str = "previous",
        scores: str = "train",
        burn_in: int = 0,
        window: float = 1.0,
        processes: Processes | None = None,
    ) -> None:
        check_choice("clip level", clip, CLIPS)
        check_choice("rule for absent classes", absent, ABSENT)
        check_choice("mode of the scores", scores, SCORES)
        if clip == "element" and not hasattr(reference, "element_losses"):
            raise DedtError(
                f"The {type(reference).__name__} has no element_losses, so its excess cannot be clipped pixel by "
                "pixel. Choose another clip level."
            )
        self.reference = reference.eval().requires_grad_(False)
        K = len(counts)
        class_to_sample_weights(np.full(K, 1 / K), counts)  # raises if a class has no images
        self.counts = torch.as_tensor(counts)
        self.step_size, self.smoothing, self.clip, self.absent = step_size, smoothing, clip, absent
        self.scores, self.burn_in, self.window = scores, burn_in, window
        self.settings = {"step_size": step_size, "smoothing": smoothing, "clip": clip, "absent": absent}
        self.settings |= {"scores": scores, "burn_in": burn_in, "window": window}
        self.processes = processes or Processes()
        self.weights = torch.full((K,), 1 / K, dtype=torch.float64)
        self.excess = torch.zeros(K, dtype=torch.float64)
        self.history = History()  # weights, excess and clipped share of each step, side by side

    @torch.no_grad()
    def __call__(self, losses: torch.Tensor, batch: Batch, proxy: nn.Module | None = None) -> torch.Tensor:
        """Sample weights [b] for the losses [b] of this batch; records one step of the trajectory.

        Args:
            losses: float [b], losses of the proxy on the whole batch.
            batch: The batch.
            proxy: The model with these losses, needed only if others are compared: per pixel with clip
                "element", without dropout with scores "eval", and ``margin_losses`` of a model that has them
                (MDT's own loss weights timesteps and masks tokens).
        """
        device = losses.device
        self.weights, self.excess, self.counts = (
            values.to(device) for values in (self.weights, self.excess, self.counts)
        )
        of_both = "element_losses" if self.clip == "element" else "margin_losses"
        compared = of_both if hasattr(self.reference, of_both) else "losses"
        if compared != "losses" or self.scores == "eval":
            if proxy is None:
                raise DedtError("The proxy has to compute these losses. Pass it as the third argument.")
            losses = self._all_rows(proxy.train(self.scores == "train"), compared, batch)
            proxy.train()
        previous = self.excess if self.absent == "previous" else torch.zeros_like(self.excess)
        reference_losses = self._all_rows(self.reference, compared, batch)
        self.excess, clipped = class_excess(losses, reference_losses, batch.labels, previous, clip=self.clip)
        if len(self.history) >= self.burn_in:
            self.weights = self.update(self.weights, self.excess)
        self.history.append(torch.cat([self.weights, self.excess, clipped[None]]))
        if len(self.history) % FLUSH == 0:
            self.history.fetch()
        sample_weights = self.weights * self.counts.sum() / self.counts
        return sample_weights[batch.labels.long()].float()

    def update(self, weights: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
        """The class weights after a step, float64 [K]: what another rule overrides."""
        return update_weights(weights, excess, step_size=self.step_size, smoothing=self.smoothing)

    @torch.no_grad()
    def _all_rows(self, model, compared, batch):
        own = self.processes.mine(batch)
        shape = batch.images.shape[1:] if compared == "element_losses" else ()
        losses = getattr(model, compared)(own) if len(own) else batch.images.new_zeros((0, *shape))
        return self.processes.gather(losses, len(batch))

    @property
    def trajectory(self) -> np.ndarray:
        """The class weights of all steps so far: float64 [T, K]."""
        return self.state()["trajectory"].numpy()

    @property
    def average(self) -> np.ndarray:
        """The averaged class weights so far: float64 [K], uniform until the burn-in is over."""
        moved = len(self.history) - self.burn_in
        if moved <= 0:
            return self.weights.cpu().numpy()
        return average_weights(self.trajectory, self.burn_in + whole((1 - self.window) * moved))

    def state(self) -> dict[str, torch.Tensor]:
        """State for a checkpoint: trajectory and excess float64 [T, K], clipped float64 [T]."""
        K = len(self.counts)
        rows = torch.from_numpy(self.history.rows()).reshape(-1, 2 * K + 1)
        return {"trajectory": rows[:, :K], "excess": rows[:, K:-1], "clipped": rows[:, -1]}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a :meth:`state`."""
        if len(state["trajectory"]):
            self.weights, self.excess = state["trajectory"][-1], state["excess"][-1]
        rows = torch.cat([state["trajectory"], state["excess"], state["clipped"][:, None]], dim=1)
        self.history = History(rows.numpy())


RULES[USUAL] = GroupDRO
