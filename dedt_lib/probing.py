"""Hours: what this device needs for a unit of each kind of work in a plan.

The library's own networks and loops are timed on random images, so neither data nor weights are needed.
"""

import dataclasses
import functools
import time

import numpy as np

from .errors import DedtError
from .planning import DIFFUSION, UNITS, diffusion, section
from .plans import EpochPlan
from .sizes import LATENT_CHANNELS, STABLE_DIFFUSION, latent_shape


def seconds(work, speed):
    """Seconds that a :class:`~dedt_lib.planning.Work` takes at a ``speed`` of :func:`probe`."""
    units = getattr(work, UNITS.get(work.kind, "steps"))
    return units * speed[work.kind, work.network] if work.network else 0.0


def probe(profile, works, counts, *, limit=5.0):
    """Measure this device: (kind, network) of each of the ``works`` -> seconds per step, image or evaluation.

    Trains the profile's own networks for a few steps at its batch sizes, and draws a few steps of a batch
    of samples, all with random images of its shape: no data is needed.  A part measures for about ``limit``
    seconds, but for one step at least.  Raises DedtError when a batch does not fit into the device's memory.
    """
    from tqdm import tqdm

    device = _Device(profile, counts, limit)
    speed = {}
    for work in tqdm(works, desc="probe", unit="part", leave=False):
        if work.network and (work.kind, work.network) not in speed:
            speed[work.kind, work.network] = device.measure(work.kind, work.network)
    return speed


SAMPLING_STEPS = 2


class _Enough(Exception):
    """The probe has seen as many steps as it wants."""


class _Clock(EpochPlan):
    """One batch in every epoch, and the time at which the losses of each were there."""

    def __init__(self, batch_size, limit, most=20):
        super().__init__(np.arange(batch_size), total=batch_size, epochs=most + 2)
        self.limit, self.most, self.times = limit, most, []

    def record(self, indices, losses):
        self.times.append(time.perf_counter())
        steps = len(self.times) - 1
        if steps and (steps == self.most or self.times[-1] - self.times[0] > self.limit):
            raise _Enough

    @property
    def seconds(self):
        """Of a step: the median of the later half, which has left the warm-up behind."""
        steps = np.diff(self.times)
        return float(np.median(steps[len(steps) // 2 :]))


class _RandomLatents:
    """Stands in for ``latents.Latents``: a source of training samples that are noise."""

    def __init__(self, labels, shape):
        self.labels, self.shape = labels, shape

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return self

    def draw(self, indices, flip, generator):
        import torch

        return torch.randn((len(indices), *self.shape), generator=generator, device=indices.device)


class _Untrained:
    """Stands in for an Experiment: what the families of models ask of it, without data or weights."""

    def __init__(self, profile, data):
        self.profile, self.data = profile, data
        side, channels = latent_shape(profile)
        self.latents = _RandomLatents(data.labels, (channels, side, side))

    @functools.cached_property
    def autoencoder(self):
        """The one that the profile trains, or one of the make of Stable Diffusion's."""
        from diffusers import AutoencoderKL

        from .latents import small_autoencoder

        p = self.profile
        if not p.autoencoder.weights:
            return small_autoencoder(p.data.channels, widths=p.autoencoder.channels), ""
        levels = len(p.autoencoder.channels)
        network = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=p.autoencoder.channels,
            layers_per_block=2,
            latent_channels=LATENT_CHANNELS,
        )
        return network.eval(), ""

    @property
    def decoder(self):
        return self.autoencoder

    @property
    def pipeline(self):
        """A pipeline with a U-Net of the profile's size."""
        from .models.stable_diffusion import tiny_pipeline

        p = self.profile
        layers, text_width = STABLE_DIFFUSION["published" if p.stable_diffusion.weights else "tiny"]
        size = {"block_channels": p.stable_diffusion.channels, "layers": layers, "text_width": text_width}
        return tiny_pipeline(self.autoencoder[0], image_size=p.autoencoder.image_size, **size), ""


class _Device:
    """Measures the parts of a profile's work on this machine, each once."""

    def __init__(self, profile, counts, limit):
        import torch

        self.profile, self.counts, self.limit = profile, counts, limit
        self.shape = (profile.data.channels, profile.data.image_size, profile.data.image_size)
        self.name = "cuda" if torch.cuda.is_available() else "cpu"
        self.step, self.evaluation = functools.cache(self._step), functools.cache(self._evaluation)
        if profile.threads:
            torch.set_num_threads(profile.threads)

    def measure(self, kind, network):
        """Seconds per unit of this kind of work."""
        import torch

        models = {name: model for model, name in DIFFUSION.items()}
        try:
            if network not in models:
                return self._other(kind, network)
            if kind in UNITS:
                return self.evaluation(models[network])
            return self.step(models[network], dro=kind == "proxy")
        except torch.OutOfMemoryError as error:
            size = f"{models.get(network, 'unet').replace('-', '_')}.batch_size"
            raise DedtError(
                f"The probe of '{kind}' ran out of the device's memory. Lower {size} or "
                f"sample.batch_size of the profile; --set {size}=8 does so for a trial."
            ) from error

    def _other(self, kind, network):
        if network == "distances":
            return self.pair()
        if network == "vae":
            parts = {"autoencoder": self.autoencoder_step, "latents": self.encoded_image}
            return parts.get(kind, self.decoded_image)()
        return self.encoder_step(network) if kind == "encoder" else self.encoder_image(network)

    # ---- the diffusion models

    def family(self, model, count=0):
        """The family of a model in an experiment with ``count`` random images, one of each class at least."""
        from .families import FAMILIES

        return FAMILIES[model](_Untrained(self.profile, self._images(max(count, len(self.counts)))))

    def _step(self, model, dro=False):
        """Seconds per step of the library's own training loop; dro: beside a reference."""
        import tempfile

        from .reweighting import GroupDRO
        from .training import train

        settings = dataclasses.replace(self.family(model).settings, checkpoint_every=10**9)
        family, clock = self.family(model, settings.batch_size), _Clock(settings.batch_size, self.limit)
        images_of_each = np.ones(len(self.counts), dtype=np.int64)
        with tempfile.TemporaryDirectory() as folder:
            try:
                train(
                    family.build(0),
                    family.source(),
                    clock,
                    settings,
                    seed=0,
                    folder=folder,
                    weighting=GroupDRO(family.build(0).to(self.name), images_of_each) if dro else None,
                    device=self.name,
                    progress="proxy" if dro else "train",
                )
            except _Enough:
                return clock.seconds

    def _evaluation(self, model):
        """Seconds for one image through the network while sampling.

        A slow device is spared the whole batch: there an image takes as long among few as among many.
        """
        whole, few = self.profile.sample.batch_size, min(8, self.profile.sample.batch_size)
        family = self.family(model)
        network = family.build(0).to(self.name).eval()
        self._sample(family, network, few)
        seconds = self._sample(family, network, few)
        if seconds * whole / few > self.limit:
            count = few
        else:
            count = whole
            self._sample(family, network, whole)
            seconds = self._sample(family, network, whole)
        guided = diffusion(self.profile, model, len(self.counts)).guided
        return seconds / (count * SAMPLING_STEPS * (2 if guided else 1))

    def _sample(self, family, network, count):
        """Seconds for SAMPLING_STEPS steps of ``count`` samples by the library's own sampler."""
        import torch

        from .sampling import sample_generators
        from .training import autocast

        labels = torch.arange(count, device=self.name) % len(self.counts)
        noise = torch.randn((count, *network.sample_shape), device=self.name)
        draws = sample_generators(range(count), 0)
        how = {"steps": SAMPLING_STEPS, "guidance": family.guidance, "generators": draws}
        start = time.perf_counter()
        with autocast(self.profile.sample.precision, self.name):
            family.sampler(network, noise, labels, **how).cpu()
        return time.perf_counter() - start

    # ---- the other networks

    def encoder_step(self, network, steps=3):
        """Seconds per step of a classifier's or CLIP's training."""
        from . import encoders

        settings = {**section(self.profile, network).training, "seed": 0, "device": self.name}
        train = encoders.train_clip if network == "clip" else encoders.train_classifier
        model, images = self._encoder(network), self._images(settings["batch_size"])
        train(model, images, **{**settings, "epochs": 1})
        start = time.perf_counter()
        train(model, images, **{**settings, "epochs": steps})
        return (time.perf_counter() - start) / steps

    def encoder_image(self, network):
        """Seconds per image to embed."""
        from . import encoders

        model, images = self._encoder(network), self._some_images().images
        encoders.embed(model, images, device=self.name)
        start = time.perf_counter()
        encoders.embed(model, images, device=self.name)
        return (time.perf_counter() - start) / len(images)

    def autoencoder_step(self, steps=3):
        """Seconds per step of the autoencoder's training."""
        from . import latents

        p = self.profile
        settings = {**p.autoencoder.training, "seed": 0, "device": self.name}
        settings["image_size"] = p.autoencoder.image_size
        images = self._images(settings["batch_size"])
        network, _ = _Untrained(p, images).autoencoder
        latents.train_autoencoder(network, images, **{**settings, "epochs": 1})
        start = time.perf_counter()
        latents.train_autoencoder(network, images, **{**settings, "epochs": steps})
        return (time.perf_counter() - start) / steps

    def encoded_image(self):
        """Seconds to encode one image."""
        import tempfile

        from . import latents

        p, images = self.profile, self._some_images()
        network, _ = _Untrained(p, images).autoencoder

        def encode():
            with tempfile.TemporaryDirectory() as folder:
                size = {"image_size": p.autoencoder.image_size, "flip": False}
                latents.encode(network, images.images, folder, device=self.name, **size)

        encode()
        start = time.perf_counter()
        encode()
        return (time.perf_counter() - start) / len(images)

    def decoded_image(self):
        """Seconds to decode one sample."""
        import torch

        from . import latents

        experiment = _Untrained(self.profile, self._some_images())
        network = experiment.autoencoder[0].to(self.name)
        noise = torch.randn((len(experiment.data), *experiment.latents.shape), device=self.name)
        latents.decode(network, noise, size=self.profile.data.image_size)
        start = time.perf_counter()
        latents.decode(network, noise, size=self.profile.data.image_size)
        return (time.perf_counter() - start) / len(noise)

    def pair(self):
        """Seconds for the distance of a pair of images, in as many numbers as the widest of the metrics has."""
        from .evaluation import THUMBNAIL, neighbour_radii

        side, width = (
            min(self.shape[1], THUMBNAIL),
            64 if self.profile.evaluate.network == "classifier" else 2048,
        )
        rows = np.random.default_rng(0).random((1024, max(self.shape[0] * side**2, width)))
        how = {"device": None if self.name == "cpu" else self.name}
        neighbour_radii(rows, **how)
        start = time.perf_counter()
        neighbour_radii(rows, **how)
        return (time.perf_counter() - start) / len(rows) ** 2

    def _some_images(self):
        return self._images(256 if self.name == "cuda" else 16)

    def _images(self, count):
        """Random images, in as many classes as there can be."""
        from .data import LabelledImages

        names = tuple(f"class {k}" for k in range(min(count, len(self.counts))))
        pixels = np.random.default_rng(0).integers(0, 256, (count, *self.shape), dtype=np.uint8)
        return LabelledImages(pixels, np.arange(count) % len(names), names, tuple(map(str, range(count))))

    def _encoder(self, network):
        from . import encoders
        from .surrogates import CLIP_WIDTH

        p = self.profile
        if network == "vit":
            return self._vit()
        if network == "metric" and p.evaluate.network != "classifier":
            return encoders.PRETRAINED["inceptionv3"][0]()  # of the same make, and no file is needed
        if network != "metric" and section(p, network).weights:
            return encoders.PRETRAINED[network][0]()
        settings = {
            "resnet18": {"width": p.encoders.resnet18.width},
            "inceptionv3": {"width": 0, "size": p.encoders.inceptionv3.size},
            "clip": {"width": CLIP_WIDTH},
            "metric": {"width": 64},
        }[network]
        name = "classifier" if network == "metric" else network
        return encoders.build(name, channels=self.shape[0], num_classes=len(self.counts), **settings)

    def _vit(self):
        """CLIP's ViT-L/14 at 336 pixels, untrained."""
        import tempfile

        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        from .encoders.vit import ClipViT

        shape = {"hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768}
        layers = {"num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14, "image_size": 336}
        with tempfile.TemporaryDirectory() as folder:
            CLIPVisionModelWithProjection(CLIPVisionConfig(**shape, **layers)).save_pretrained(folder)
            return ClipViT(folder)
