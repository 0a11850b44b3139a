import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from dedt_lib import encoders, weights
from dedt_lib.encoders import common
from dedt_lib.errors import DedtError
from dedt_lib.pixels import to_float
from dedt_lib.randomness import seeded


def network(name="classifier", width=8, seed=0, **settings):
    shape = {"channels": 1, "num_classes": 10, "width": width}
    return seeded(seed, "weights", lambda: encoders.build(name, **shape, **settings))


def settle(net, *inputs):
    """Set batch-norm statistics from ``inputs``; without them a fresh deep network gives almost zero."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        net.train()(*inputs)
    return net.eval()


@pytest.fixture(scope="module")
def inception(digits):
    return settle(network("inceptionv3"), to_float(torch.from_numpy(digits.images[::3])))


@pytest.fixture(scope="module")
def clip():
    return network("clip", 8)


# ---- the networks ------------------------------------------------------------------------------------


def test_pixels_become_minus_one_to_one():
    values = to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name, width, d", [("resnet18", 2, 16), ("classifier", 8, 8)])
def test_features_have_the_documented_width(name, width, d, digits):
    assert encoders.embed(network(name, width), digits.images).shape == (len(digits), d)


def test_resnet18_of_width_64_is_the_cifar_variant():
    net = encoders.build("resnet18", channels=3, num_classes=10, width=64)
    assert net.head.in_features == 512
    # The published count for a 3x3 stem and ten classes.
    assert sum(p.numel() for p in net.parameters()) == 11_173_962


def test_resnet18_keeps_the_names_of_stored_weights():
    plain, normalised = network("resnet18", 2), network("resnet18", 2, mean=[0.3], std=[0.4])
    names = list(plain.state_dict())
    assert (names[0], names[-1], len(names)) == ("stem.0.weight", "head.bias", 122)
    assert "stages.1.0.downsample.1.running_var" in names
    assert list(normalised.state_dict()) == names


def test_resnet18_normalises_pixels_between_zero_and_one():
    mean, std = encoders.CIFAR10_MEAN, encoders.CIFAR10_STD
    plain = seeded(0, "w", lambda: encoders.ResNet18(3, 10, 2)).eval()
    net = seeded(0, "w", lambda: encoders.ResNet18(3, 10, 2, mean, std)).eval()
    pixels = torch.rand(4, 3, 8, 8)
    expected = plain.features((pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    torch.testing.assert_close(net.features(pixels * 2 - 1), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DedtError, match="both the mean and the standard deviation"):
        encoders.ResNet18(3, 10, 2, mean)


def test_inception_prepares_images_as_the_code_of_instance_selection(inception):
    ramp = torch.linspace(0, 1, 8).expand(3, 1, 8, 8)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    # With aligned corners a resized ramp stays a ramp; otherwise it would be flat at both ends.
    expected = ((torch.linspace(0, 1, 75).expand(75, 75) - mean) / std).expand(3, 3, 75, 75)
    torch.testing.assert_close(inception.preprocess(ramp * 2 - 1), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert inception.eval().features(ramp).shape == (3, 2048)
        assert inception(ramp).shape == (3, 10)


def test_unknown_encoder_lists_the_known_ones():
    with pytest.raises(DedtError, match="resnet18, classifier, inceptionv3, clip"):
        encoders.build("vgg", channels=1, num_classes=10, width=2)


def test_seeded_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    assert torch.equal(network(seed=1).head.weight, network(seed=1).head.weight)
    assert not torch.equal(network(seed=1).head.weight, network(seed=2).head.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_accuracy_counts_the_right_names(digits):
    class Always3(nn.Module):
        def forward(self, images):
            assert not self.training
            return torch.eye(10)[3].expand(len(images), 10)

    assert encoders.accuracy(Always3(), digits) == pytest.approx(0.1)


# ---- embed -------------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """An encoder whose features are the pixels.  It counts its batches, and can be killed in or spoil one."""

    def __init__(self, killed_in=None, spoilt=None, scale=1.0):
        super().__init__()
        self.killed_in, self.spoilt, self.batches = killed_in, spoilt, 0
        self.register_buffer("scale", torch.tensor(scale))

    def features(self, images):
        self.batches += 1
        if self.batches == self.killed_in:
            raise KeyboardInterrupt
        values = images.flatten(1) * self.scale
        if self.spoilt is not None:
            values[self.spoilt, 5] = float("nan")
        return values


@pytest.fixture(scope="module")
def resnet18():
    return network("resnet18", 2)


@pytest.mark.parametrize("name", ["resnet18", "inception", "clip"])
def test_features_do_not_depend_on_the_batch(name, digits, request):
    net = request.getfixturevalue(name)
    images = digits.images[::4]
    whole, parts = encoders.embed(net, images), encoders.embed(net, images, batch_size=3)
    assert whole.dtype == np.float32 and whole.std() > 0.01
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole[::-1], encoders.embed(net, images[::-1]), rtol=1e-4, atol=1e-5)


def test_embedding_to_a_file_is_the_embedding_in_memory(tmp_path, digits):
    in_memory = encoders.embed(Pixels(), digits.images, batch_size=7)
    stored = encoders.embed(Pixels(), digits.images, batch_size=7, path=tmp_path / "features.npy")
    assert isinstance(stored, np.memmap) and not stored.flags.writeable
    assert [file.name for file in tmp_path.iterdir() if file.name[0] != "."] == ["features.npy"]
    np.testing.assert_array_equal(stored, in_memory)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), in_memory)


def test_images_that_are_no_bytes_are_not_embedded(digits):
    with pytest.raises(DedtError, match="must be uint8 .*got torch.float64"):
        encoders.embed(Pixels(), digits.images / 255)


@pytest.fixture
def killed(tmp_path, digits, monkeypatch):
    """The path of an embedding in batches and parts of seven that was killed in the fifth batch."""
    monkeypatch.setattr(common, "PART", 7)
    with pytest.raises(KeyboardInterrupt):
        encoders.embed(Pixels(killed_in=5), digits.images, batch_size=7, path=tmp_path / "features.npy")
    assert not (tmp_path / "features.npy").exists()
    return tmp_path / "features.npy"


def test_a_killed_embedding_goes_on_where_it_was(killed, digits):
    expected, second, third = encoders.embed(Pixels(), digits.images, batch_size=7), Pixels(), Pixels()
    np.testing.assert_array_equal(encoders.embed(second, digits.images, batch_size=7, path=killed), expected)
    assert second.batches == 1  # 30 images are 5 batches
    assert not list(killed.parent.glob(".*-*"))
    np.testing.assert_array_equal(encoders.embed(third, digits.images, batch_size=7, path=killed), expected)
    assert third.batches == 0


@pytest.mark.parametrize("damage", tiny.DAMAGE)
def test_parts_that_were_damaged_are_embedded_again(damage, killed, digits, capsys):
    expected, second = encoders.embed(Pixels(), digits.images, batch_size=7), Pixels()
    part = min(killed.parent.glob(".*-*.npy"))
    part.write_bytes(damage(part.read_bytes()))
    np.testing.assert_array_equal(encoders.embed(second, digits.images, batch_size=7, path=killed), expected)
    assert second.batches == 2 and f"{part} is damaged" in capsys.readouterr().err


def test_a_part_is_of_whole_batches(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(common, "PART", 10)
    expected, path = encoders.embed(Pixels(), digits.images, batch_size=7), tmp_path / "features.npy"
    network = Pixels()
    np.testing.assert_array_equal(encoders.embed(network, digits.images, batch_size=7, path=path), expected)
    assert network.batches == 5


@pytest.mark.parametrize("other", ["weights", "images"])
def test_features_of_something_else_are_refused(killed, digits, other):
    network = Pixels(scale=2.0) if other == "weights" else Pixels()
    images = digits.images.copy()
    images[-1, 0, 0, 0] ^= other == "images"
    with pytest.raises(DedtError, match="holds features of other images or other weights. Delete these"):
        encoders.embed(network, images, batch_size=7, path=killed)


@pytest.mark.parametrize("to_file", [False, True])
def test_features_that_are_not_finite_name_the_image(to_file, tmp_path, digits):
    path = tmp_path / "features.npy" if to_file else None
    with pytest.raises(DedtError, match="features of image 2 are not finite"):
        encoders.embed(Pixels(spoilt=2), digits.images, batch_size=7, path=path)
    assert not (tmp_path / "features.npy").exists()


def test_a_full_disk_is_told(tmp_path, digits, monkeypatch):
    def full(file, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(common.np, "save", full)
    with pytest.raises(DedtError, match="No space left on the disk while writing .*features.npy"):
        encoders.embed(Pixels(), digits.images, path=tmp_path / "features.npy")


# ---- published weights -------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that saves a state dict as the official file of ``name``, with its hash in the address."""

    def place(name, state):
        file = tmp_path / "new.pth"
        torch.save(state, file)
        file = file.rename(tmp_path / f"network-{weights.sha256(file)[:8]}.pth")
        monkeypatch.setitem(weights.ADDRESSES, name, lambda: f"http://127.0.0.1:9/{file.name}")
        monkeypatch.setenv("DEDT_WEIGHTS", str(tmp_path))

    return place


def test_inception_with_torchvisions_weights_gives_torchvisions_features(stand_in, digits):
    from torchvision.models import inception_v3

    official = seeded(0, "official", lambda: inception_v3(init_weights=False, transform_input=True))
    noise = torch.rand(4, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    settle(official, noise)
    stand_in("inceptionv3-imagenet", official.state_dict())
    net = encoders.pretrained("inceptionv3")
    assert not net.training and net.size == 299
    official.fc = nn.Identity()
    images = to_float(torch.from_numpy(digits.images[:2]))
    with torch.no_grad():
        expected = official(net.preprocess(images))
        assert expected.std() > 0.01
        torch.testing.assert_close(net.features(images), expected)
        assert net(images).shape == (2, 1000)


def test_imagenet_resnet18_with_torchvisions_weights_gives_torchvisions_features(stand_in):
    from torchvision.models import ResNet18_Weights, resnet18

    official = seeded(0, "official", resnet18)
    stand_in("resnet18-imagenet", official.state_dict())
    net = encoders.pretrained("resnet18")
    official.fc = nn.Identity()
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    smooth = Image.fromarray(photo).resize((256, 256), Image.Resampling.BICUBIC)
    with torch.no_grad():
        expected = official.eval()(ResNet18_Weights.IMAGENET1K_V1.transforms()(smooth)[None])
    found = encoders.embed(net, np.asarray(smooth).transpose(2, 0, 1)[None])
    assert found.shape == (1, 512)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_weights_of_another_network_are_no_published_ones(stand_in):
    stand_in("resnet18-imagenet", {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)})
    with pytest.raises(DedtError, match="resnet18-imagenet belongs to another network"):
        encoders.pretrained("resnet18")
    with pytest.raises(DedtError, match="no published weights for 'ddae'. .* resnet18, inceptionv3, clip"):
        encoders.pretrained("ddae")
