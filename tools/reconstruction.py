"""Measure what an autoencoder costs: FID of the training images after they were encoded and decoded.

``python tools/reconstruction.py --profile cifar10-latent`` trains what is not in the store and writes
``results/PROFILE/reconstruction.json``.
"""

import argparse

import numpy as np
import torch

from dedt_lib.book.results import results_folder
from dedt_lib.config.profile import load_profile
from dedt_lib.experiment import Experiment
from dedt_lib.files import commit, write_json
from dedt_lib.models import autoencoder
from dedt_lib.randomness import torch_generator
from dedt_lib.stages import Lab, latents
from dedt_lib.store import Store, provenance


def measure(lab):
    """FID of the reconstructions against their originals, and their root-mean-square error in grey levels."""
    experiment = Experiment(lab, method="random")
    images, source = experiment.data.images, experiment.latents.to(lab.device)
    generator = torch_generator(0, "reconstruction", 0, lab.device)
    drawn = source.draw(torch.arange(len(images)), None, generator)
    network = latents.autoencoder(lab).result()
    decoded = autoencoder.decode(network, drawn, size=images.shape[2])
    squares = np.square(decoded.astype(np.float32) - images)
    fid = experiment.real()["all"].distance(experiment.metric_features(decoded))
    return {"fid": fid, "error": float(np.sqrt(squares.mean()))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="cifar10-latent")
    parser.add_argument("--path", default="", help="folder of the images, if the profile names none")
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile, **({"data.path": arguments.path} if arguments.path else {}))
    made = {**provenance(), "commit": commit()}
    facts = measure(Lab(profile, store=Store()))
    folder = results_folder(profile)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "reconstruction.json", {**facts, "provenance": made})


if __name__ == "__main__":
    main()
