"""CLIP (Radford et al., 2021) with open_clip: OpenAI's RN50, and a small CLIP to be trained from scratch."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import LabelledImages
from ..devices import upload
from ..pixels import channels_first, set_moments, three_channels, to_float, to_uint8
from ..training.loop import OPTIMIZERS, Supervised
from .common import embed
from .training import random_shift

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TEMPLATES = ("a photo of the {}", "an image of the {}", "a picture of the {}", "{}")
SMALL_CLIP: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


class CLIP(nn.Module):
    """An open_clip model with a ResNet; its features are the image embeddings.

    Images are preprocessed as in open_clip: bicubic resize, centre crop, CLIP's mean and standard deviation.
    Every model here uses QuickGELU, as OpenAI's training did.

    Args:
        config: An open_clip configuration (embed_dim, vision_cfg, text_cfg); SMALL_CLIP by default.
        normalise: Whether to scale image embeddings to unit length, as CLIP does to compare them with text
            embeddings; the paper's distances use them unscaled.
    """

    def __init__(self, config: dict | None = None, *, normalise: bool = False) -> None:
        import open_clip

        super().__init__()
        config = config or SMALL_CLIP
        self.model = open_clip.CLIP(**{**config, "quick_gelu": True})
        self.size = config["vision_cfg"]["image_size"]
        self.normalise = normalise
        set_moments(self, MEAN, STD)

    def load_official(self, state: dict[str, torch.Tensor]) -> None:
        """Load a state dict of OpenAI's archive or of open_clip, converted to single precision."""
        facts = ("input_resolution", "context_length", "vocab_size")
        self.model.load_state_dict({k: v.float() for k, v in state.items() if k not in facts})

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to the network's input [n, 3, size, size], normalised."""
        from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

        # open_clip resizes 8-bit images, so that bicubic overshoot is clipped at black and white.
        pixels = to_uint8(three_channels(images))
        pixels = resize(pixels, self.size, InterpolationMode.BICUBIC, antialias=True)
        return channels_first((center_crop(pixels, self.size) / 255 - self.mean) / self.std)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, H, W] in [-1, 1] to embeddings [n, embed_dim]."""
        return self.model.encode_image(self.preprocess(images), normalize=self.normalise)

    def text_features(self, texts: Iterable[str]) -> torch.Tensor:
        """Embeddings of m strings, scaled to unit length: float [m, embed_dim]."""
        return self.model.encode_text(self.tokens(texts), normalize=True)

    def tokens(self, texts: Iterable[str]) -> torch.Tensor:
        """Tokens of m strings from CLIP's own tokenizer: int64 [m, context_length]."""
        import open_clip

        return open_clip.tokenize(list(texts), self.model.context_length).to(self.mean.device)


def rn50(**settings: Any) -> CLIP:
    """An untrained CLIP with the architecture of OpenAI's RN50: 224-pixel images, embeddings of size 1024."""
    import open_clip

    return CLIP(open_clip.get_model_config("RN50-quickgelu"), **settings)


def train_clip(
    network: CLIP,
    data: LabelledImages,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    shift: int = 1,
    folder: Path | str | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Train a CLIP on LabelledImages with captions made from their class names.

    Every image gets a caption with a template drawn from TEMPLATES.  The loss is CLIP's symmetric
    cross-entropy, except that each image matches all captions of its class: the targets are spread evenly
    over them, because with few classes many other captions of a batch are correct too.  The optimiser is
    AdamW with CLIP's betas and weight decay; the learning rate follows a cosine to zero.  Arguments, result
    and errors are those of ``train_classifier``.
    """
    settings = {"shift": shift, "schedule": "cosine"}
    settings |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    network.to(device)
    images, labels = (torch.from_numpy(values).to(device) for values in (data.images, data.labels))
    captions = [network.tokens(template.format(name) for template in TEMPLATES) for name in data.class_names]
    captions = torch.stack(captions)
    # As in CLIP, no weight decay for gains, biases and the temperature: parameters with fewer than two axes.
    decayed = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.2}, {"params": others, "weight_decay": 0.0}]
    optimizer = OPTIMIZERS["adamw"](groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=False)

    def loss(batch, randomness):
        pixels = random_shift(to_float(images[batch]), shift, randomness)
        template = torch.randint(len(TEMPLATES), (len(batch),), generator=randomness)
        image = nn.functional.normalize(network.features(pixels), dim=1)
        text = network.model.encode_text(captions[labels[batch], upload(template, device)], normalize=True)
        return contrastive_loss(image, text, labels[batch], network.model.logit_scale)

    task = Supervised(network, loss, optimizer, data, settings, stream="clip", device=device)
    return task.train(folder)


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, labels: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's symmetric cross-entropy, with targets spread evenly over all pairs of equal labels.

    Args:
        image: Unit embeddings of the images, float [b, d].
        text: Unit embeddings of the captions, float [b, d].
        labels: int64 [b].
        logit_scale: Log of the inverse temperature; clamped to at most log 100, as in the paper.
    """
    logits = logit_scale.clamp(max=math.log(100)).exp() * image @ text.T
    targets = (labels[:, None] == labels[None, :]).float()
    targets = targets / targets.sum(dim=1, keepdim=True)
    cross_entropy = nn.functional.cross_entropy
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


@torch.no_grad()
def zero_shot_accuracy(network: CLIP, data: LabelledImages, *, device: torch.device | str = "cpu") -> float:
    """Zero-shot accuracy: share of images whose embedding is nearest to that of their own class, 0..1.

    A class embedding is the mean over its captions, one per template (Radford et al., 2021, section 3.1.4).
    """
    network.to(device).eval()
    prompts = [
        network.text_features([template.format(name) for template in TEMPLATES]).mean(dim=0)
        for name in data.class_names
    ]
    classes = nn.functional.normalize(torch.stack(prompts), dim=1).cpu().numpy()
    found = (embed(network, data.images, device=device) @ classes.T).argmax(axis=1)
    return float((found == data.labels).mean())
