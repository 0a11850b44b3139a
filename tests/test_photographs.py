"""Every network trains on images of all sizes that it supports and refuses others with a message."""

from pathlib import Path

import pytest
import tiny
import torch

from dedt_lib.encoders.training import random_flip, random_shift
from dedt_lib.errors import DedtError
from dedt_lib.models import build_model
from dedt_lib.pixels import channels_first, to_float
from dedt_lib.randomness import torch_generator


@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_trains_a_step_on_photographs(channels):
    """This runs in a separate process: a failing kernel ends it, and its last line names the network."""
    done = tiny.python(Path(__file__).with_name("one_step.py"), channels, 32, 64, 128, 256)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), (done.stdout[-100:], done.stderr[-2000:])


def plain(x):
    _, c, h, w = x.shape
    return x.stride() == (c * h * w, h * w, w, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [24, 48])
def test_augmented_images_lie_in_memory_as_their_shape_says(channels, size):
    generator = torch_generator(0, "x", 0)
    innermost = torch.randint(0, 256, (3, size, size, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
    images = to_float(innermost)
    assert plain(images) and torch.equal(images, innermost.float() / 127.5 - 1)
    for padding in ("replicate", "zero"):
        assert plain(random_shift(images, 2, generator, padding))
    assert plain(random_flip(innermost.float(), generator))


def test_the_layout_changes_no_value_and_leaves_what_is_right_alone():
    for shape in ((2, 1, 30, 20), (2, 3, 30, 20), (2, 1, 8, 8)):
        x = torch.randn(shape)
        assert torch.equal(channels_first(x), x) and channels_first(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("width", [2, 4, 8])
def test_a_narrow_network_trains_on_small_grey_images(width):
    """Grey images of 8 pixels keep the strides of a view, which crash kernels for few channels."""
    code = (
        "import sys, tiny; from dedt_lib import encoders; data = tiny.digits()\n"
        "network = encoders.build('resnet18', channels=1, num_classes=10, width=int(sys.argv[1]))\n"
        "encoders.train_classifier(network, data, epochs=1, batch_size=10, learning_rate=0.1, seed=0)"
    )
    done = tiny.python("-c", code, width)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("size", [30, 50])
def test_a_unet_refuses_sizes_that_it_cannot_halve(size):
    sizes = {"block_channels": (8, 8, 8), "layers": 1, "attention": (False,) * 3, "groups": 4}
    with pytest.raises(DedtError, match="multiple of 4"):
        build_model("unet", channels=3, image_size=size, num_classes=2, **sizes)
