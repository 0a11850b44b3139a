"""The kinds of diffusion model: network, training settings and sampler, from a section of the profile.

A new kind of model is a :class:`ModelSpec` and its entry in ``MODELS``, here or in a file of your own.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from .. import sampling
from ..config import Profile
from ..config.profile import Diffusion
from ..config.recipe import MODELS
from ..errors import DedtError
from ..models import build_model
from ..randomness import seeded
from ..training import TrainingSettings

TEXT = {"published": {"layers": 2, "text_width": 768}, "tiny": {"layers": 1, "text_width": 32}}
"""U-Net layers per level and text encoder width of Stable Diffusion 1.x and of the tiny pipeline."""


NO_WARMUP: dict[str, Any] = {"warmup_steps": 0, "warmup_epochs": 0.0}


def latent_shape(section: Any) -> tuple[int, int, int]:
    """Channels, height and width of the latents, from the profile's section ``autoencoder``."""
    side = section.image_size // section.downsampling
    return section.latent_channels, side, side


class ModelSpec:
    """A kind of diffusion model: its network, how it is trained, and how it is sampled.

    Attributes:
        name: Its name in a recipe.
        label: Name of its network in the plan.
        section: Its settings: the profile's section of that name, or a ``Diffusion`` set on the class.
        latent: Whether it works on latents.
        sampler: See :func:`dedt_lib.sampling.sample`.
        unguided: The guidance value that means no guidance.
        evaluations: Forward passes per training image; the backward pass counts as two.
        proxy_evaluations: The same in group DRO, including the reference; one more if the scores need a
            forward pass of their own.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    section: Any = None
    latent: bool = True
    sampler: ClassVar[Callable[..., torch.Tensor]] = staticmethod(sampling.ddim)
    unguided: ClassVar[float] = 0.0
    evaluations: int = 3
    fixed: dict[str, Any] = {}
    """Training settings that the kind of model fixes for every profile."""

    def __init__(self, profile: Profile) -> None:
        self.section, self.train = getattr(profile, self.name.replace("-", "_"), self.section), profile.train
        self.autoencoder = profile.autoencoder
        own_pass = profile.reweight.scores == "eval" or profile.reweight.clip == "element"
        self.proxy_evaluations = 4 + own_pass

    @cached_property
    def settings(self) -> TrainingSettings:
        """Training settings: the profile's, overridden by ``fixed``."""
        values = {**self.train.model_dump(), **self.section.model_dump(), **self.fixed}
        names = {field.name for field in dataclasses.fields(TrainingSettings)}
        return TrainingSettings(**{name: value for name, value in values.items() if name in names})

    @property
    def proxy_epochs(self) -> int:
        """Epochs of the proxy in group DRO."""
        return self.settings.epochs

    @property
    def guidance(self) -> float:
        """Guidance scale, in the convention of its sampler."""
        return self.section.guidance

    def sampling(self, unguided: bool = False) -> dict[str, Any]:
        """Steps and guidance, as keyword arguments of its sampler."""
        return {"steps": self.section.steps, "guidance": self.unguided if unguided else self.guidance}

    def check_steps(self) -> None:
        """Raise DedtError if its sampler cannot take as many steps as its section says."""
        if self.sampler is sampling.ddim:
            sampling.check_ddim_steps(self.section.steps)

    def decides(self) -> dict[str, Any]:
        """Settings that decide the untrained network: the fields of its section that ``Diffusion`` lacks."""
        return self.section.model_dump(exclude=set(Diffusion.model_fields), mode="json")

    def network(self, shape: Sequence[int], class_names: Sequence[str], pipeline: Any = None) -> nn.Module:
        """A network for data of ``shape`` [C, H, W]; Stable Diffusion starts from ``pipeline``."""
        raise NotImplementedError

    def build(
        self, shape: Sequence[int], class_names: Sequence[str], seed: int, pipeline: Any = None
    ) -> nn.Module:
        """The network, freshly initialised from the seed."""
        return seeded(seed, "model weights", lambda: self.network(shape, class_names, pipeline))

    def parameters(self, shape: Sequence[int], class_names: Sequence[str]) -> int:
        """Number of parameters, counted without allocating them."""
        with torch.device("meta"):
            return sum(value.numel() for value in self.network(shape, class_names).parameters())


class UNetSpec(ModelSpec):
    """DDPM with a U-Net (Tables I to III), on pixels or, where the profile says so, on latents."""

    name, label = "unet", "U-Net"

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.latent = self.section.latent

    def decides(self):
        # The inputs of a run already say whether it works on latents.
        return {name: value for name, value in super().decides().items() if name != "latent"}

    def network(self, shape, class_names, pipeline=None):
        s = self.section
        own = s.model_dump(include={"layers", "attention", "dropout", "groups"})
        images = {"channels": shape[0], "image_size": shape[1], "num_classes": len(class_names)}
        return build_model("unet", **images, block_channels=s.channels, **own)


class MDTSpec(ModelSpec):
    """MDTv2 (Gao et al., 2023) on latents (Table IV).

    Every image takes a masked and an unmasked pass; the excess loss of group DRO takes another unmasked pass
    of the proxy and one of the reference.
    """

    name, label = "mdt", "MDT"
    sampler = staticmethod(sampling.respaced_ddpm)
    unguided, evaluations = 1.0, 6

    def __init__(self, profile: Profile) -> None:
        """Raise DedtError, before anything is encoded, if sizes in the profile do not fit."""
        from ..models.mdt import check_sizes

        super().__init__(profile)
        s = self.section
        side = latent_shape(self.autoencoder)[1]
        check_sizes(side, s.patch_size, s.hidden_size, s.heads, s.depth, s.decode_layers)
        self.proxy_evaluations = 8
        # AdamW as MDT's first version uses it, without weight decay, is Adam.
        optimizer = {"adan": "adan", "adamw": "adam"}[s.optimizer]
        self.fixed = {**NO_WARMUP, "optimizer": optimizer, "ema_warmup": "none"}

    @property
    def proxy_epochs(self):
        return self.section.proxy_epochs

    def check_steps(self):
        sampling.check_ancestral_steps(self.section.steps)

    def decides(self):
        training = ("proxy_epochs", "optimizer")
        return {name: value for name, value in super().decides().items() if name not in training}

    def network(self, shape, class_names, pipeline=None):
        own = self.decides()
        own |= {"num_heads": own.pop("heads"), "decode_layer": own.pop("decode_layers")}
        latents = {"input_size": shape[1], "in_channels": shape[0], "num_classes": len(class_names)}
        return build_model("mdt", **latents, **own, class_dropout_prob=self.train.label_dropout)


class StableDiffusionSpec(ModelSpec):
    """Stable Diffusion (Rombach et al., 2022), fine-tuned on captions of the classes (Table V)."""

    name, label = "stable-diffusion", "Stable Diffusion"
    fixed = {"optimizer": "adamw", "ema_warmup": "reciprocal", "label_dropout": 0.0, **NO_WARMUP}

    def __init__(self, profile: Profile) -> None:
        """Raise DedtError, before anything is encoded, if a size in the profile does not fit."""
        super().__init__(profile)
        if self.autoencoder.image_size % 8:
            raise DedtError(
                "autoencoder.image_size must be a multiple of 8 for Stable Diffusion; got "
                f"{self.autoencoder.image_size}."
            )
        if self.autoencoder.patch > 1:
            raise DedtError("Stable Diffusion does not support patches. Set autoencoder.patch = 1.")

    @property
    def guidance(self):
        # diffusers' scale is w + 1, for the w of (1 + w) eps_c - w eps_u.
        return self.section.guidance - 1

    def check_steps(self):
        sampling.check_ddim_steps(self.section.steps, offset=1)

    def decides(self):
        return {}

    def network(self, shape, class_names, pipeline=None):
        """A copy of the pre-trained pipeline's U-Net to fine-tune; without a pipeline an untrained U-Net."""
        from ..models.stable_diffusion import StableDiffusion

        if pipeline is None:
            return self.untrained_pipeline(None).unet
        return StableDiffusion(twin(pipeline), class_names, image_size=self.autoencoder.image_size)

    def untrained_pipeline(self, vae: nn.Module | None) -> Any:
        """An untrained pipeline of the profile's size with the autoencoder ``vae`` (None: untrained too)."""
        from ..models.autoencoder import small_autoencoder
        from ..models.stable_diffusion import tiny_pipeline

        vae = vae or small_autoencoder(3, widths=self.autoencoder.channels)
        text = TEXT["published" if self.section.weights else "tiny"]
        size = self.autoencoder.image_size
        return tiny_pipeline(vae, image_size=size, block_channels=self.section.channels, **text)


MODELS.update({spec.name: spec for spec in (UNetSpec, MDTSpec, StableDiffusionSpec)})


def twin(pipeline: Any, **parts: nn.Module) -> Any:
    """A pipeline with a copy of the U-Net and the same other components, except those in ``parts``."""
    parts = {**pipeline.components, "unet": copy.deepcopy(pipeline.unet), **parts}
    return type(pipeline)(**parts, requires_safety_checker=False)
