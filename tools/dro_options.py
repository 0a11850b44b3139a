"""Measure what each option of group DRO changes: one option at a time, around the defaults of a profile.

``python tools/dro_options.py`` trains a proxy for every setting below and every seed of the profile (about a
minute each on the digits), and writes ``results/PROFILE/dro-options.json``.  Proxies that are in the store
are not trained again, so an interrupted run can be continued.

``reweight.scores`` has no setting here: it decides whether the scores are computed with dropout, and the
digits' network has none.

The right class weights are unknown.  A setting is therefore judged by whether different seeds learn the same
weights, by the effective number of classes, and by the agreement with the weights of the default.
"""

import argparse
import itertools

import numpy as np

from dedt_lib.book.results import results_folder
from dedt_lib.config.profile import load_profile
from dedt_lib.experiment import Experiment
from dedt_lib.files import write_json
from dedt_lib.reweighting import average_weights, effective_classes
from dedt_lib.store import Store, provenance

SETTINGS = {
    "default": {},
    "step size 0.3": {"reweight.step_size": 0.3},
    "step size 3": {"reweight.step_size": 3.0},
    "smoothing 1e-4": {"reweight.smoothing": 1e-4},
    "smoothing 1e-2": {"reweight.smoothing": 1e-2},
    "clipped by class": {"reweight.clip": "class"},
    "clipped by pixel": {"reweight.clip": "element"},
    "absent classes at zero": {"reweight.absent": "zero"},
    "no burn-in": {"reweight.burn_in": 0.0},
    "burn-in of a half": {"reweight.burn_in": 0.5},
    "average of the last half": {"reweight.window": 0.5},
}
RECIPE = {"method": "moderate", "encoder": "resnet18", "ratio": 0.1, "reweighting": True}


def learned(profile, seed, changes, store):
    """One proxy's class weights float64 [K], and after its burn-in the share clipped and the mean excess."""
    changes = dict(changes)
    window = changes.pop(
        "reweight.window", profile.reweight.window
    )  # changes only the average, so it needs no proxy of its own
    dro = Experiment(load_profile(profile, **changes), store=store, seed=seed, **RECIPE).reweight()
    start = dro["burn_in"] + int((1 - window) * (len(dro["trajectory"]) - dro["burn_in"]))
    moved = slice(dro["burn_in"], None)
    return (
        average_weights(dro["trajectory"], start),
        dro["clipped"][moved].mean(),
        dro["excess"][moved].mean(),
    )


def correlation(x, y):
    """Pearson correlation of the logarithms of two weight vectors."""
    return float(np.corrcoef(np.log(x), np.log(y))[0, 1])


def measure(profile, store=None):
    """A row for each setting: a list of dicts, ready for JSON."""
    rows, default = [], None
    for name, changes in SETTINGS.items():
        found = [learned(profile, seed, changes, store) for seed in profile.seeds]
        weights = np.array([weights for weights, _, _ in found])
        default = weights if default is None else default
        seeds, defaults = list(itertools.combinations(weights, 2)), list(zip(weights, default))
        pairs = [correlation(*pair) for pair in seeds]
        rows.append(
            {
                "setting": name,
                "effective_classes": float(effective_classes(weights).mean()),
                "clipped": float(np.mean([clipped for _, clipped, _ in found])),
                "mean_excess": float(np.mean([excess for _, _, excess in found])),
                "between_seeds": pairs,
                "with_default": [correlation(*pair) for pair in defaults],
                "weights": np.round(weights, 5).tolist(),
            }
        )
        print(
            f"{name}: {rows[-1]['effective_classes']:.2f} effective classes, "
            f"correlations between seeds {np.round(pairs, 2)}"
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="digits")
    profile = load_profile(parser.parse_args().profile)
    rows = measure(profile, Store())
    facts = {"recipe": RECIPE, "seeds": list(profile.seeds), "provenance": provenance(), "rows": rows}
    folder = results_folder(profile)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dro-options.json", facts)


if __name__ == "__main__":
    main()
