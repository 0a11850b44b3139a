"""The surrogate encoder of an experiment: trained on its images and stored, or loaded with published weights.

``surrogate(experiment, name)`` gives (network, manifest).  The manifest's "key" names the weights, so that
features and coresets follow them.
"""

import dataclasses

import numpy as np

from . import encoders
from .errors import DedtError
from .plans import EpochPlan
from .store import address, sha256
from .training import train
from .weights import Published, key_of, locate

CLIP_WIDTH = 16  # of the small CLIP's vision tower; OpenAI's RN50 has 64
PUBLISHED = {"resnet18": "imagenet", "inceptionv3": "imagenet", "clip": "openai"}
"""What the profile's value NAME_weights is called when it means the published weights."""


def surrogate(experiment, name):
    """The encoder ``name`` of an Experiment, in eval mode, and its manifest; raises DedtError."""
    return SURROGATES[name](experiment)


def published_weights(profile, name):
    """What a profile names as the published weights of the encoder ``name``; "": it is trained."""
    return getattr(profile, f"{name.removesuffix('-rn50')}_weights", "")


def resnet18(experiment):
    """ResNet-18 (He et al., 2016) trained on the images to be pruned, or torchvision's of ImageNet."""
    p = experiment.profile
    if p.resnet18_weights:
        return published("resnet18", p.resnet18_weights)
    settings = classifier_settings(p, "resnet18")
    recipe = {"network": "resnet18", "width": p.resnet18_width, **settings}
    network = {"width": p.resnet18_width}
    if p.resnet18_recipe == "published":
        recipe |= {"recipe": "published", "flip": p.flip}
        settings |= {"schedule": "steps", "nesterov": False, "shift": 4, "padding": "zero", "flip": p.flip}
        network |= mean_and_std(experiment.data.images)
    return trained_classifier(experiment, "encoder", recipe, settings, **network)


def inceptionv3(experiment):
    """Inception-v3 (Szegedy et al., 2016) with torchvision's ImageNet weights, or trained on the images."""
    p = experiment.profile
    if p.inceptionv3_weights:
        return published("inceptionv3", p.inceptionv3_weights)
    settings = classifier_settings(p, "inceptionv3")
    # Small data gives it few steps, in which AdamW brings it further than the SGD of the other classifiers.
    settings["optimizer"] = "adamw"
    recipe = {"network": "inceptionv3", "size": p.inceptionv3_size, **settings}
    network = {"size": p.inceptionv3_size, "dropout": 0.0}
    return trained_classifier(experiment, "encoder", recipe, settings, width=0, **network)


def clip(experiment):
    """CLIP (Radford et al., 2021): RN50 with OpenAI's weights, or a small one trained on the images.

    With the profile's clip_normalise its embeddings have length one.
    """
    p = experiment.profile
    network, manifest = published("clip", p.clip_weights) if p.clip_weights else _own_clip(experiment)
    if not p.clip_normalise:
        return network, manifest
    network.normalise = True
    key = address("readout", {"weights": manifest["key"], "normalise": True})
    return network, {**manifest, "key": key}


def _own_clip(experiment):
    p, data = experiment.profile, experiment.data
    check_classes(experiment, "CLIP")
    settings = classifier_settings(p, "clip")
    recipe = {"version": 1, "data": data.fingerprint, "network": "clip", **settings}

    def build():
        shape = {"channels": data.images.shape[1], "num_classes": len(data.class_names)}
        return encoders.build("clip", **shape, width=CLIP_WIDTH)

    def work(folder):
        network = encoders.seeded(0, "encoder weights", build)
        losses = encoders.train_clip(
            network, data, seed=0, folder=folder, device=experiment.device, **settings
        )
        return kept(network, folder, losses, experiment, encoders.zero_shot_accuracy)

    return stored(experiment, "encoder", recipe, work, build)


def ddae(experiment):
    """The decoder of a diffusion model that never sees a label (DDAE; Xiang et al., 2023)."""
    experiment = experiment.change(model="unet")
    p, data = experiment.profile, experiment.data
    settings = dataclasses.replace(experiment.settings, epochs=p.ddae_epochs, label_dropout=1.0)
    recipe = {
        "version": 1,
        "data": data.fingerprint,
        "network": "ddae",
        "model": experiment.family.network,
        "settings": experiment.address_of_settings(settings),
    }
    if p.ddae_block > (blocks := len(p.unet_channels) * (p.unet_layers + 1)):
        raise DedtError(
            f"The decoder of this U-Net has blocks 1 to {blocks}; set ddae_block, now {p.ddae_block}, to one "
            "of them."
        )
    readout = {"block": p.ddae_block, "timestep": p.ddae_timestep, "draws": p.ddae_draws}

    def work(folder):
        plan = EpochPlan(np.arange(len(data)), total=len(data), epochs=p.ddae_epochs)
        result = train(
            experiment.build_model(seed=0),
            data,
            plan,
            settings,
            seed=0,
            folder=folder,
            device=experiment.device,
            processes=experiment.processes,
            progress="train DDAE",
        )
        return {
            "losses": result.losses.reshape(p.ddae_epochs, -1).mean(axis=1).tolist(),
            "images_seen": result.images_seen,
        }

    folder = experiment.store.run("encoder", recipe, work, resumable=True, processes=experiment.processes)
    manifest = experiment.store.manifest(folder)
    model = encoders.load_weights(experiment.build_model(seed=0), folder / "model.safetensors")
    # The paper's code counts timesteps from one.
    network = encoders.DDAE(model, p.ddae_block, p.ddae_timestep - 1, draws=p.ddae_draws)
    return network, {**manifest, "key": address("readout", {"weights": manifest["key"], **readout})}


SURROGATES = {"resnet18": resnet18, "inceptionv3": inceptionv3, "clip-rn50": clip, "ddae": ddae}
"""Name in a recipe -> how that encoder comes about.  A new encoder is a function here."""


def metric_classifier(experiment):
    """The small classifier in whose features FID is measured where Inception's mean nothing."""
    settings = classifier_settings(experiment.profile, "metric")
    recipe = {"network": "classifier", "width": 64, **settings}
    return trained_classifier(experiment, "metric", recipe, settings, width=64)


def cmmd_network(experiment):
    """The CLIP in whose embeddings CMMD is measured, published or small, and the key of its weights."""
    p = experiment.profile
    if p.cmmd == "clip":
        network, manifest = clip(experiment)
        return network, manifest["key"]
    network = encoders.ClipViT(p.cmmd_weights) if p.cmmd_weights else encoders.ClipViT()
    return network, key_of(network)


def unit_embeddings(network, images, device, path=None):
    """Embeddings of uint8 images, each of length one: float32 [n, d]; path: a ``.npy`` to keep them."""
    embeddings = encoders.embed(network, images, device=device)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    if path:
        np.save(path, embeddings)
    return embeddings


# ---- parts -----------------------------------------------------------------------------------------


def check_classes(experiment, what):
    """Raise DedtError when there is a single class, of which a classifier learns nothing."""
    if len(experiment.data.class_names) == 1:
        raise DedtError(
            f"All images are of one class, so there is nothing that {what} could learn from their labels. "
            "Choose an encoder that needs no labels (--encoder ddae), published weights (such as --set "
            "resnet18_weights=imagenet) or --method random."
        )


def classifier_settings(profile, prefix):
    """Epochs, batch size and learning rate that a profile holds under ``prefix``."""
    names = ("epochs", "batch_size", "learning_rate")
    return {name: getattr(profile, f"{prefix}_{name}") for name in names}


def mean_and_std(images):
    """Mean and standard deviation of each channel of uint8 images, on the scale 0..1, to four digits."""
    samples = images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
    return {
        "mean": [round(float(channel.mean()) / 255, 4) for channel in samples],
        "std": [round(float(channel.std(dtype=np.float64)) / 255, 4) for channel in samples],
    }


def trained_classifier(experiment, stage, recipe, settings, **network_settings):
    """A classifier of the experiment's images as a stored stage: (network in eval mode, manifest)."""
    data = experiment.data
    check_classes(experiment, f"the {recipe['network']}")

    def build():
        shape = {"channels": data.images.shape[1], "num_classes": len(data.class_names)}
        return encoders.build(recipe["network"], **shape, **network_settings)

    def work(folder):
        network = encoders.seeded(0, f"{stage} weights", build)
        losses = encoders.train_classifier(
            network, data, seed=0, folder=folder, device=experiment.device, **settings
        )
        return kept(network, folder, losses, experiment, encoders.accuracy)

    recipe = {"version": 1, "data": data.fingerprint, **recipe}
    return stored(experiment, stage, recipe, work, build)


def kept(network, folder, losses, experiment, accuracy):
    """Save a trained network into its stage's folder; returns the facts for the manifest."""
    encoders.save_weights(network, folder / "model.safetensors")
    facts = {
        "losses": losses.tolist(),
        "train_accuracy": accuracy(network, experiment.data, device=experiment.device),
    }
    if experiment.test is not None:
        facts["test_accuracy"] = accuracy(network, experiment.test, device=experiment.device)
    return facts


def stored(experiment, stage, recipe, work, build):
    folder = experiment.store.run(stage, recipe, work, resumable=True)
    network = encoders.load_weights(build(), folder / "model.safetensors").eval()
    return network, experiment.store.manifest(folder)


def published(name, weights):
    """An encoder with its published weights: ``weights`` is their name in PUBLISHED, or a file."""
    path = "" if weights == PUBLISHED[name] else weights
    if path and "/" not in path and "." not in path:
        raise DedtError(
            f"Unknown weights '{weights}' for {name}. Choose '{PUBLISHED[name]}', the path of a file, or '' "
            "to train it on your images."
        )
    official = encoders.PRETRAINED[name][1]
    network, file = encoders.pretrained(name, path), locate(official, path)
    recipe = {"network": name, "weights": official, "sha256": sha256(file)}
    network.published = Published(weights, None, file.parent, {file.name: recipe["sha256"]})
    manifest = {"key": address("encoder", recipe), "recipe": recipe, "seconds": 0.0, "cpu_seconds": 0.0}
    return network, manifest
