import pickle

import numpy as np
import pytest
import torch

from dedt_lib import encoders
from dedt_lib.errors import DedtError
from dedt_lib.randomness import torch_generator


def network(name="classifier", width=8, seed=0):
    return encoders.seeded(
        seed, "weights", lambda: encoders.build(name, channels=1, num_classes=10, width=width)
    )


def train(net, digits, **changes):
    given = {"epochs": 6, "batch_size": 10, "learning_rate": 0.05, "seed": 0, **changes}
    return encoders.train_classifier(net, digits, **given)


@pytest.mark.parametrize("name, width, features", [("resnet18", 2, 16), ("classifier", 8, 8)])
def test_features_have_the_documented_width(name, width, features, digits):
    assert encoders.embed(network(name, width), digits.images).shape == (len(digits), features)


def test_resnet18_of_width_64_is_the_cifar_variant():
    net = encoders.build("resnet18", channels=3, num_classes=10, width=64)
    assert net.head.in_features == 512
    # The published count for a 3x3 stem and ten classes.
    assert sum(p.numel() for p in net.parameters()) == 11_173_962


def test_pixels_become_minus_one_to_one():
    values = encoders.to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.tolist() == [-1.0, 1.0]


def test_training_learns_and_repeats_itself(digits):
    first, second = network("resnet18", 2), network("resnet18", 2)
    losses, again = train(first, digits), train(second, digits)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(losses, again)
    for a, b in zip(first.state_dict().values(), second.state_dict().values()):
        assert torch.equal(a, b)


def test_embedding_does_not_depend_on_the_batch(digits):
    net = network("resnet18", 2)
    train(net, digits, epochs=1)
    whole, parts = encoders.embed(net, digits.images), encoders.embed(net, digits.images, batch_size=7)
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-6)


def test_accuracy_counts_the_right_names(digits):
    class Always3(torch.nn.Module):
        def forward(self, images):
            return torch.eye(10)[3].expand(len(images), 10)

    assert encoders.accuracy(Always3(), digits) == pytest.approx(0.1)


def test_shift_moves_whole_images_by_at_most_a_pixel():
    images = torch.zeros(20, 1, 5, 5)
    images[:, :, 2, 2] = 1
    moved = encoders.random_shift(images, 1, torch_generator(0, "shift"))
    assert torch.equal(moved.sum(dim=(1, 2, 3)), torch.ones(20))
    assert moved[:, :, 1:4, 1:4].sum() == 20
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 1
    assert torch.equal(encoders.random_shift(images, 0, None), images)


def test_seeded_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    assert torch.equal(network(seed=1).head.weight, network(seed=1).head.weight)
    assert not torch.equal(network(seed=1).head.weight, network(seed=2).head.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_round_trip(tmp_path):
    encoders.save_weights(network(seed=1), tmp_path / "model.safetensors")
    loaded = encoders.load_weights(network(seed=2), tmp_path / "model.safetensors")
    assert torch.equal(loaded.head.weight, network(seed=1).head.weight)


def test_unknown_encoder_lists_the_known_ones():
    with pytest.raises(DedtError, match="resnet18, classifier"):
        encoders.build("vgg", channels=1, num_classes=10, width=2)


def test_weights_of_another_network_are_refused(tmp_path):
    encoders.save_weights(network(width=16), tmp_path / "model.safetensors")
    with pytest.raises(DedtError, match="belongs to another network"):
        encoders.load_weights(network(width=8), tmp_path / "model.safetensors")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("save", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save])
def test_a_pickle_is_refused_and_never_opened(tmp_path, save):
    file, trace = tmp_path / "model.pt", tmp_path / "trace"
    save(Bomb(trace), file)
    with pytest.raises(DedtError, match="is a pickle.*Convert it to safetensors"):
        encoders.read_tensors(file)
    assert not trace.exists()


def test_missing_and_damaged_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(DedtError, match="does not exist"):
        encoders.read_tensors(file)
    encoders.save_weights(network(), file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DedtError, match="not a readable safetensors file.*Delete it and run again"):
        encoders.read_tensors(file)
