"""What recipes share: the profile, the store, the device and all loaded results."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Profile, load_profile
from ..data import LabelledImages, reads_files
from ..data.photos import Photos
from ..errors import DedtError
from ..processes import Processes
from ..store import Store
from .base import Given, Stage, published
from .data import Images, Photographs
from .models import MODELS, ModelSpec


class Lab:
    """Computes and loads the results of stages, each once per address.

    A profile that sets ``threads`` sets PyTorch's number of threads for the whole process, because another
    order of sums changes the last bits.

    Args:
        profile: A name, a file or a Profile.
        store: A Store or its folder (default: ``$DEDT_STORE``, else ``runs/``).
        device: Such as "cuda"; by default the profile's, else the GPU if there is one.
        report: A folder for the list of images that cannot be read (default: the store's).
        counts: Training images per class, for an *imagined* lab, which counts and times stages without data
            or published weights.
        names: Names of these classes (default: numbers).

    Raises:
        DedtError: For a profile that cannot be used, or a GPU that is not available.
    """

    def __init__(
        self,
        profile: str | Path | Profile = "digits",
        *,
        store: Store | Path | str | None = None,
        device: str | None = None,
        report: Path | None = None,
        counts: Sequence[int] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.profile = load_profile(profile)
        self.imagined = counts is not None
        self._counts = None if counts is None else np.asarray(counts, dtype=np.int64)
        self._names = tuple(names) or tuple(f"class {k}" for k in range(len(counts or ())))
        self.store = store if isinstance(store, Store) else Store(store)
        self.report = report
        self.processes = Processes.from_environment(device or self.profile.device or None)
        self.device = self.processes.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if str(self.device).partition(":")[0] not in ("cpu", "cuda"):
            raise DedtError(f"Unknown device '{self.device}'. Choose 'cpu' or 'cuda'.")
        if self.gpu and not self.imagined and not torch.cuda.is_available():
            raise DedtError("PyTorch finds no GPU. Leave the device out, or choose device = 'cpu'.")
        self._loaded: dict[Hashable, Any] = {}
        if self.profile.threads and not self.imagined:
            torch.set_num_threads(self.profile.threads)

    def with_counts(self, counts: Sequence[int]) -> "Lab":
        """An imagined lab with the same profile and store, see ``counts`` above."""
        return Lab(self.profile, store=self.store, counts=counts)

    @property
    def gpu(self) -> str | None:
        """Device for distances: the GPU, or None for NumPy."""
        return self.device if str(self.device).startswith("cuda") else None

    @property
    def device_name(self) -> str:
        """Name of the GPU, or "cpu"."""
        return torch.cuda.get_device_name(self.gpu) if self.gpu else "cpu"

    # ---- stages

    def folder(self, stage: Stage) -> Path:
        """The folder of a stage's result, computed if missing; looked up and verified once."""

        def work(folder: Path) -> dict[str, Any]:
            stage.check()
            return {"device": self.device_name, **(stage.work(folder) or {}), **published([stage])}

        processes = self.processes if stage.together else None
        run = partial(self.store.run, stage.name, stage.identity, work, stage.resumable, processes)
        return self.remember(("folder", stage.address), run)

    def result(self, stage: Stage) -> Any:
        """The result of a stage, loaded once."""
        return self.remember(stage.address, lambda: stage.load(stage.folder))

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result of ``make()``, called only the first time for each key."""
        if key not in self._loaded:
            self._loaded[key] = make()
        return self._loaded[key]

    def spec(self, model: str) -> ModelSpec:
        """The kind of diffusion model ``model``, with the profile's settings."""
        return self.remember(("spec", model), lambda: MODELS[model](self.profile))

    # ---- the data

    @cached_property
    def images(self) -> Images:
        """The stage of the training images."""
        return Images(self)

    @property
    def data(self) -> LabelledImages:
        """The training images as pixels, in the profile's size."""
        images = self.images.result()
        assert images is not None  # only held-out images may be missing
        return images

    @property
    def has_files(self) -> bool:
        """Whether the images are the user's own, in files."""
        return reads_files(self.profile.data.source)

    @cached_property
    def photographs(self) -> Photographs:
        """The stage of the training images in their files."""
        return Photographs(self)

    @cached_property
    def photos(self) -> Photos:
        """The training images in their files; clusters stand in for missing classes."""
        found = self.photographs.result()
        assert found is not None  # only held-out images may be missing
        if found.class_names:
            return found
        from .embed import Clusters, encoder

        name = self.profile.select.cluster_encoder
        if not isinstance(encoder(self, name), Given):
            raise DedtError(
                f"Images without classes are clustered, but the encoder '{name}' would first have to be "
                "trained on these clusters. Set select.cluster_encoder to a published network."
            )
        labels = Clusters(self).result()
        names = tuple(f"cluster {k + 1}" for k in range(labels.max() + 1))
        return dataclasses.replace(found, labels=labels, class_names=names)

    @property
    def pool(self) -> LabelledImages | Photos:
        """The training images as selection sees them: labels, class names, ids and copies."""
        return self.photos if self.has_files and not self.imagined else self.data

    @property
    def test(self) -> LabelledImages | None:
        """Held-out images, or None when the source has none."""
        return Images(self, "test").result()

    @property
    def class_counts(self) -> np.ndarray:
        """Number of training images per class: int64 [K]."""
        return self.pool.class_counts if self._counts is None else self._counts

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.pool.class_names if self._counts is None else self._names

    @property
    def n(self) -> int:
        """Number of training images."""
        return int(self.class_counts.sum())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        p = self.profile.data
        known = self.imagined or self.has_files
        return (p.channels, p.image_size, p.image_size) if known else self.data.images.shape[1:]

    def imagine(self, images: int) -> LabelledImages:
        """``images`` random images in the profile's shape, whose labels cycle through the classes."""
        names = self.class_names
        pixels = np.random.default_rng(0).integers(0, 256, (images, *self.shape), dtype=np.uint8)
        labels = np.arange(images) % len(names)
        return LabelledImages(pixels, labels, names, tuple(map(str, range(images))))
