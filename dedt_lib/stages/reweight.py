"""The class weights: group DRO of a proxy on the coreset against the run on all the data."""

from dataclasses import replace

import numpy as np

from ..arrays import whole
from ..errors import DedtError
from ..randomness import numpy_generator
from ..reweighting import RULES, USUAL, effective_classes
from .base import Stage, defaults, uncounted
from .train import Snapshot, Train, steps_at


class Proxy(Train):
    """The proxy of group DRO; its result is a dict of the learned weights and their history.

    weights: float64 [K], the averaged alpha; trajectory: float64 [T, K]; excess: float64 [T, K], the clipped
    class means lambda; clipped: float64 [T], the share of samples clipped to zero; effective: float64 [T],
    the effective number of classes; burn_in: int, in steps.

    Attributes:
        burn_in: Share of the steps before the weights move.
        equal_steps: Whether the reference is stopped after as many steps as the proxy takes.
        rule: Name of the rule in ``reweighting.RULES``.
    """

    burn_in: float = 0.0
    equal_steps: bool = False
    rule: str = USUAL

    name = "proxy"

    @property
    def settings(self):
        return replace(self.spec.settings, epochs=self.spec.proxy_epochs)

    @property
    def reference(self) -> Train | Snapshot:
        """The run whose losses the proxy's are compared with."""
        everything = Train.on_everything(self.lab, self.model, self.seed)
        if not self.equal_steps:
            return everything
        return Snapshot(self.lab, everything, steps_at(self.lab, self.spec, self.coreset.ratio))

    @property
    def dro(self):
        """Arguments of :class:`~dedt_lib.reweighting.GroupDRO`."""
        steps = self.outline().steps(self.settings.batch_size)
        return {**self.lab.profile.reweight.model_dump(), "burn_in": whole(self.burn_in * steps)}

    def inputs(self):
        return {**super().inputs(), "reference": self.reference}

    def decides(self):
        own = {} if self.rule == USUAL else {"rule": {"name": self.rule, **defaults(RULES[self.rule])}}
        return {**super().decides(), "dro": self.dro, **own}

    def check(self):
        if len(self.lab.class_names) == 1:
            raise DedtError(
                "There is one class, so there are no class weights to learn. Give the images classes, or set "
                "select.clusters to two or more where clusters take their place."
            )
        super().check()

    def weigh(self):
        # A fresh copy, because GroupDRO freezes its reference and the stage's result is shared.
        reference = self.reference.load(self.reference.folder).to(self.lab.device)
        rule, counts = RULES[self.rule], self.coreset.result().counts
        return rule(reference, counts, processes=self.lab.processes, **self.dro)

    def load(self, folder):
        with np.load(folder / "dro.npz") as file:
            history = {name: file[name] for name in file.files}
        effective = effective_classes(history["trajectory"])
        own = {"effective": effective, "burn_in": self.dro["burn_in"]}
        return {"weights": np.load(folder / "weights.npy"), **own, **history}

    def cost(self):
        (run,) = super().cost()
        history = 8 * (2 * len(self.lab.class_names) + 1) * run.steps  # alpha, lambda and the clipped share
        what = "group DRO" if self.rule == USUAL else self.rule
        work = {"kind": "proxy", "what": what, "evaluations": self.spec.proxy_evaluations * run.images}
        yield replace(run, **work, bytes=run.bytes + history, scratch=run.scratch + history)


class Shuffled(Stage):
    """The null of group DRO: a proxy's weights permuted over the classes; a dict with weights float64 [K].

    Attributes:
        proxy: The proxy that learned the weights.
        seed: Seed of the permutation.
    """

    proxy: Proxy
    seed: int

    name = "shuffled-weights"

    def inputs(self):
        return {"proxy": self.proxy}

    def decides(self):
        return {"seed": self.seed}

    def work(self, folder):
        weights = self.proxy.result()["weights"]
        np.save(folder / "weights.npy", numpy_generator(self.seed, "shuffled weights").permutation(weights))

    def load(self, folder):
        return {"weights": np.load(folder / "weights.npy")}

    cost = uncounted  # a permutation of K numbers
