"""Images to features: the surrogate encoders of Fig. 1, and the classifier that FID is measured with.

A new encoder is a network with ``features(images) -> [n, d]`` and an entry in ``NETWORKS``.
"""

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.resnet import BasicBlock
from tqdm import tqdm

from .errors import DedtError
from .randomness import derive, torch_generator


def to_float(images):
    """uint8 [n, C, H, W] in 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


class ResNet18(nn.Module):
    """ResNet-18 for small images: 3x3 stem with stride 1, no max-pool.

    Features are the pooled output of the last stage, d = 8 * width (512 for the paper's width 64).
    Stem and widths as in the CIFAR variant used by Moderate-DS (Xia et al., 2023).
    """

    def __init__(self, channels, num_classes, width=64):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(*(self._stage(a, b) for a, b in zip(widths, widths[1:])))
        self.head = nn.Linear(8 * width, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs, outputs):
        if inputs == outputs:
            return nn.Sequential(BasicBlock(inputs, outputs), BasicBlock(outputs, outputs))
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
        return nn.Sequential(BasicBlock(inputs, outputs, 2, shortcut), BasicBlock(outputs, outputs))

    def features(self, images):
        """float [n, C, H, W] in [-1, 1] to [n, 8 * width]."""
        return self.stages(self.stem(images)).mean(dim=(2, 3))

    def forward(self, images):
        return self.head(self.features(images))


class SmallClassifier(nn.Module):
    """Three plain convolutions and 64 features: the yardstick for FID, used for nothing else."""

    def __init__(self, channels, num_classes, width=64):
        super().__init__()
        sizes = [(channels, width // 2), (width // 2, width), (width, width)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in sizes)
        self.head = nn.Linear(width, num_classes)

    def features(self, images):
        """float [n, C, H, W] in [-1, 1] to [n, width]."""
        for k, convolution in enumerate(self.convolutions):
            images = nn.functional.silu(convolution(images))
            if k == 1:
                images = nn.functional.avg_pool2d(images, 2)
        return images.mean(dim=(2, 3))

    def forward(self, images):
        return self.head(self.features(images))


NETWORKS = {"resnet18": ResNet18, "classifier": SmallClassifier}


def build(name, *, channels, num_classes, width):
    """An untrained encoder by name; raises DedtError for an unknown one."""
    if name not in NETWORKS:
        raise DedtError(f"Unknown encoder '{name}'. Choose one of: {', '.join(NETWORKS)}.")
    return NETWORKS[name](channels, num_classes, width)


def train_classifier(network, data, *, epochs, batch_size, learning_rate, seed, shift=1, device="cpu"):
    """Train ``network`` on LabelledImages with cross-entropy; returns the training losses [epochs].

    SGD with Nesterov momentum 0.9, weight decay 5e-4 and a one-cycle-to-zero cosine schedule (the
    DeepCore recipe); the only augmentation is a random shift of up to ``shift`` pixels.
    """
    network.to(device).train()
    images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
    n = len(data)
    steps_per_epoch = -(-n // batch_size)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
    history = []
    for epoch in tqdm(range(epochs), desc=f"train {type(network).__name__}", leave=False):
        randomness = torch_generator(seed, "classifier", epoch)
        order = torch.randperm(n, generator=randomness).to(device)
        total = 0.0
        for batch in order.split(batch_size):
            pixels = random_shift(to_float(images[batch]), shift, randomness)
            loss = nn.functional.cross_entropy(network(pixels), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        history.append(total / n)
    network.eval()
    return np.array(history)


def random_shift(images, pixels, generator):
    """Shift each image by up to ``pixels`` in both directions; the border repeats."""
    if pixels == 0:
        return images
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (pixels,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=generator)
    rows = (dy + torch.arange(height)).to(images.device)
    columns = (dx + torch.arange(width)).to(images.device)
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def embed(network, images, *, batch_size=256, device="cpu"):
    """Features of uint8 images [n, C, H, W]: float32 [n, d], in eval mode, without augmentation."""
    network.to(device).eval()
    batches = torch.from_numpy(np.ascontiguousarray(images)).split(batch_size)
    return torch.cat(
        [network.features(to_float(batch.to(device))).float().cpu() for batch in batches]
    ).numpy()


@torch.no_grad()
def accuracy(network, data, *, device="cpu"):
    """Share of LabelledImages that the classifier ``network`` names rightly, 0..1."""
    logits = torch.cat(
        [network(to_float(batch.to(device))).cpu() for batch in torch.from_numpy(data.images).split(256)]
    )
    return float((logits.argmax(1).numpy() == data.labels).mean())


def seeded(seed, stream, make):
    """Call ``make()`` with PyTorch's global generator set from (seed, stream): same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, stream))
        return make()


def save_weights(module, path):
    """Write a module's parameters and buffers as safetensors."""
    from .store import atomic

    with atomic(path) as partial:
        save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, partial)


def read_tensors(path):
    """Read a safetensors file to a dict of tensors.

    Raises DedtError for a missing or damaged file and for a pickle (``.pt``, ``.ckpt``), which this
    library never opens because a pickle can run code.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise DedtError(f"{path} does not exist.") from None
    except Exception as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04":
            raise DedtError(
                f"{path} is a pickle, which can run code when it is opened. Convert it to safetensors first."
            ) from error
        raise DedtError(
            f"{path} is not a readable safetensors file ({error}). Delete it and run again."
        ) from error


def load_weights(module, path):
    """Fill ``module`` from a safetensors file; raises DedtError when names or shapes do not fit."""
    try:
        module.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise DedtError(f"{path} belongs to another network: {error}") from error
    return module
