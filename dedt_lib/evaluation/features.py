"""Features of images by an extractor of torch-fidelity: Inception-v3, or a classifier of our own."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..arrays import Array, check_choice
from ..errors import DedtError
from ..files import atomic, create_array
from ..pixels import to_float
from .neighbours import check_images

INCEPTION = "inception-v3-compat"
"""torch-fidelity's name of the Inception-v3 of published FIDs."""


def register_classifier(network: torch.nn.Module, weights_sha256: str, shape: tuple[int, int, int]) -> str:
    """Offer a classifier's features to torch-fidelity.

    Args:
        network: has ``features(float images in [-1, 1]) -> [n, d]``.
        weights_sha256: of the weights.  The name carries it, because torch-fidelity caches statistics by name
            alone.
        shape: channels, height and width of the images.

    Returns:
        The extractor's name, for :func:`extract_features`.
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    name = f"dedt-classifier-{weights_sha256[:12]}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name

    class ClassifierFeatures(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)
            self.network = network.eval()

        get_provided_features_list = staticmethod(lambda: ("features",))
        get_default_feature_layer_for_metric = staticmethod(lambda metric: "features")
        can_be_compiled = staticmethod(lambda: False)
        get_dummy_input_for_compile = staticmethod(lambda: torch.zeros((1, *shape), dtype=torch.uint8))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.network.features(to_float(images)),)

    register_feature_extractor(name, ClassifierFeatures)
    return name


def extract_features(
    images: Array,
    extractor: str,
    *,
    layer: str | int | None = None,
    batch_size: int = 256,
    weights_path: str | Path | None = None,
    out: str | Path | None = None,
    cuda: bool = False,
) -> Array:
    """Features of uint8 images by a torch-fidelity extractor.

    Args:
        images: uint8 [n, C, H, W], memory-mapped or not; one channel is repeated where the network wants
            three.
        extractor: a name from :func:`register_classifier`, or "inception-v3-compat", the network of published
            FIDs.
        layer: by default the one for FID ("2048" of Inception; its "192" and "768" are narrower).
        batch_size: images at a time; the features do not depend on it, up to rounding.
        weights_path: Inception's weights, ``.pth`` or ``.safetensors``.
        out: a ``.npy`` file to write to; the result is then memory-mapped.
        cuda: whether the network runs on the GPU.

    Returns:
        float32 [n, d].

    Raises:
        DedtError: an unknown extractor or layer, weights that are missing or belong to another network, and
            images that the network cannot take.
    """
    network = _feature_network(extractor, layer, weights_path).to("cuda" if cuda else "cpu")
    check_images(images)
    try:
        if out is None:
            return _fill_features(network, images, batch_size, np.empty)
        with atomic(out) as partial:
            _fill_features(network, images, batch_size, functools.partial(create_array, partial)).flush()
        return np.load(out, mmap_mode="r")
    finally:
        network.to("cpu")  # a classifier that was registered is in use elsewhere


def _fill_features(network: torch.nn.Module, images: Array, batch_size: int, allocate: Callable) -> Any:
    """Features of all images, in an array made by ``allocate(shape, dtype)``."""
    channels = network.get_dummy_input_for_compile().shape[1]
    device = next((weights.device for weights in network.parameters()), torch.device("cpu"))
    features = np.empty(0)
    for start in tqdm(range(0, len(images), batch_size), desc="features", leave=False):
        batch = torch.from_numpy(np.array(images[start : start + batch_size], order="C")).to(device)
        if batch.shape[1] == 1:
            batch = batch.expand(-1, channels, -1, -1)
        if batch.shape[1] != channels:
            raise DedtError(f"The extractor takes {channels} channels; the images have {batch.shape[1]}.")
        with torch.no_grad():
            rows = network(batch)[0].cpu().numpy()
        if start == 0:
            features = allocate((len(images), rows.shape[1]), np.float32)
        features[start : start + len(rows)] = rows
    return features


def _feature_network(
    extractor: str, layer: str | int | None, weights_path: str | Path | None
) -> torch.nn.Module:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    check_choice("feature extractor", extractor, FEATURE_EXTRACTORS_REGISTRY)
    kind = FEATURE_EXTRACTORS_REGISTRY[extractor]
    layer = str(layer or kind.get_default_feature_layer_for_metric("fid"))
    check_choice("layer", layer, kind.get_provided_features_list())
    name = "feature_extractor_weights_path"
    weights = {name: _inception_weights(weights_path)} if extractor == INCEPTION else {}
    try:
        return create_feature_extractor(extractor, [layer], cuda=False, verbose=False, **weights)
    except RuntimeError as error:
        raise DedtError(f"{weights_path} does not hold the weights of '{extractor}': {error}") from error


def _inception_weights(path: str | Path | None) -> io.BytesIO:
    """A file's state dict as a buffer: torch-fidelity would open the file in a way that can run code."""
    from ..weights import read_tensors

    if path is None:
        raise DedtError(
            f"'{INCEPTION}' needs its published weights: give weights_path=weights.locate('inception-fid')."
        )
    try:
        safe = str(path).endswith(".safetensors")
        state = read_tensors(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except DedtError:
        raise
    except FileNotFoundError:
        raise DedtError(f"{path} does not exist.") from None
    except Exception as error:
        raise DedtError(f"{path} is damaged or not a file of weights; get it again ({error}).") from error
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer
