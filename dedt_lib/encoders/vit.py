"""CLIP's ViT-L/14 at 336 pixels with transformers: the embeddings on which CMMD is defined."""

from pathlib import Path

import torch
from torch import nn

from ..pixels import channels_first, set_moments, three_channels, to_uint8
from ..weights import hub_files, read_network
from .clip import MEAN, STD

CLIP_VIT = "openai/clip-vit-large-patch14-336"
# The published repository has only the second file, a pickle, from which transformers reads tensors only.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class ClipViT(nn.Module):
    """CLIP's image tower as CMMD uses it (Jayasumana et al., 2024); features are unit vectors.

    The network is in eval mode and float32.  The attribute ``published`` records the files of the weights.

    Args:
        where: A folder with config.json and model.safetensors (or pytorch_model.bin), as ``save_pretrained``
            writes it for the image tower or the whole CLIP; or a name on the Hugging Face hub, which is
            searched in ``weights_folder()`` and in the hub's cache before it is downloaded
            (``weights.published``).  None makes an untrained network of this architecture, enough to time it.

    Raises:
        DedtError: Files are missing, damaged or of another network, or a download fails.
    """

    def __init__(self, where: Path | str | None = CLIP_VIT) -> None:
        super().__init__()
        self.published = where and hub_files(where, "the CLIP of CMMD", WEIGHTS)
        self.model = _read(self.published) if where else _untrained()
        self.config = self.model.config
        self.size = self.config.image_size
        set_moments(self, MEAN, STD)
        self.eval()

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to the network's input [n, 3, size, size], normalised.

        As published for CMMD: centre square, bicubic resize with antialiasing, CLIP's mean and deviation.
        """
        from torchvision.transforms.v2.functional import InterpolationMode, resize

        side = min(images.shape[2:])
        top, left = ((length - side) // 2 for length in images.shape[2:])
        square = three_channels(images)[:, :, top : top + side, left : left + side]
        # As published, on 8-bit images, so that bicubic overshoot is clipped at black and white.
        pixels = resize(to_uint8(square), [self.size, self.size], InterpolationMode.BICUBIC, antialias=True)
        return channels_first((pixels / 255 - self.mean) / self.std)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to unit vectors [n, d]; as published, d = 768."""
        return nn.functional.normalize(self.model(self.preprocess(images)).image_embeds, dim=1)


def _untrained():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    tower = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    config = CLIPVisionConfig(**tower, image_size=336, patch_size=14, projection_dim=768)
    return CLIPVisionModelWithProjection(config)


def _read(files):
    from transformers import CLIPVisionModelWithProjection
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else it lists every weight of the text tower as unused
    try:
        return read_network(CLIPVisionModelWithProjection.from_pretrained, files, "CLIP", dtype=torch.float32)
    finally:
        logging.set_verbosity(verbosity)
