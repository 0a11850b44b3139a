import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKL
from diffusers.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from PIL import Image

from dedt_lib import latents
from dedt_lib.errors import DedtError
from dedt_lib.latents import Latents
from dedt_lib.models import autoencoder as module
from dedt_lib.models.autoencoder import decode, encode, load_autoencoder, small_autoencoder, train_autoencoder
from dedt_lib.pixels import resize, to_float
from dedt_lib.randomness import seeded, torch_generator
from dedt_lib.weights import key_of

SIZE = 16


def autoencoder(seed=0, channels=1):
    return seeded(seed, "vae", lambda: small_autoencoder(channels, (4, 8, 8))).eval()


@pytest.fixture(scope="module")
def network():
    return autoencoder()


def write(network, images, folder, **changes):
    encode(network, images, folder, **{"image_size": SIZE, "flip": False, "batch_size": 7, **changes})
    return folder


def content(folder):
    return np.concatenate([np.load(path) for path in sorted(folder.glob("latents-*.npy"))])


def assert_rounding_apart(first, second):
    """Equal up to float16 rounding and the order of sums."""
    assert first.shape == second.shape
    np.testing.assert_allclose(first.astype(np.float32), second.astype(np.float32), rtol=2e-3, atol=1e-5)


# ---- pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before, after", [(8, 16), (16, 8), (12, 5)])
def test_resize_is_pillows_bicubic(before, after):
    # Pillow also rounds and clips between its two passes, which matters only near black and white.
    images = np.random.default_rng(0).integers(64, 192, (3, 1, before, before), dtype=np.uint8)
    found = resize(images, after, batch_size=2)
    assert found.dtype == np.uint8 and found.shape == (3, 1, after, after)
    for image, ours in zip(images, found):
        expected = Image.fromarray(image[0]).resize((after, after), Image.Resampling.BICUBIC)
        assert np.abs(ours[0].astype(int) - expected).max() <= 1


def test_resize_leaves_flat_and_fitting_images_alone():
    flat = np.full((2, 3, 8, 8), 77, np.uint8)
    assert (resize(flat, 20) == 77).all()
    assert resize(flat, 8) is flat


def test_digits_survive_being_enlarged_and_shrunk(digits):
    back = resize(resize(digits.images, SIZE), 8, antialias=False)
    assert np.abs(back.astype(int) - digits.images).mean() < 3


# ---- the autoencoder ---------------------------------------------------------------------------------


def test_small_autoencoder_makes_4x4x4_latents_of_16x16_pixels():
    network = small_autoencoder(1)
    assert network.encode(torch.zeros(2, 1, SIZE, SIZE)).latent_dist.mean.shape == (2, 4, 4, 4)
    assert small_autoencoder(3, (6, 12), 2).decode(torch.zeros(1, 2, 5, 5)).sample.shape == (1, 3, 10, 10)


def test_a_patch_is_one_position_of_the_first_level(tmp_path):
    network = seeded(0, "vae", lambda: small_autoencoder(3, (8, 16), patch=2)).eval()
    pixels, positions = torch.randn(2, 3, SIZE, SIZE), []
    first = network.encoder.network.down_blocks[0]
    first.register_forward_hook(lambda _, inputs, output: positions.append(inputs[0].shape))
    posterior = network.encode(pixels).latent_dist
    assert posterior.mean.shape == (2, 4, 4, 4) and module.downsampling(network) == 4
    assert positions == [(2, 8, 8, 8)] and network.decode(posterior.mean).sample.shape == pixels.shape
    images = np.zeros((3, 3, SIZE, SIZE), np.uint8)
    assert content(write(network, images, tmp_path)).shape == (3, 1, 2, 4, 4, 4)
    with pytest.raises(DedtError, match="multiple of 4"):
        write(network, images, tmp_path / "other", image_size=18)


def test_a_patched_autoencoder_starts_from_the_principal_components_of_patches(digits):
    images = torch.from_numpy(resize(digits.images, SIZE))
    network = small_autoencoder(1, (8, 16), latent_channels=6, patch=2)
    module.start_linear(network, images)
    pixels = to_float(images)
    with torch.no_grad():
        posterior = network.encode(pixels).latent_dist
        error = network.decode(posterior.mean).sample - pixels
    patches = torch.nn.functional.pixel_unshuffle(pixels, 4).permute(0, 2, 3, 1).reshape(-1, 16).double()
    patches -= patches.mean()
    lost = torch.linalg.eigvalsh(patches.T @ patches / len(patches))[:-6]
    assert error.square().mean() * 16 == pytest.approx(lost.sum().item(), rel=0.02)
    of_channels = (posterior.mean.double().square() + posterior.var.double()).mean(dim=(0, 2, 3))
    np.testing.assert_allclose(of_channels, 1, rtol=0.01)  # the second moment of the prior


def test_patches_without_variance_need_no_latents():
    network = small_autoencoder(1, (8,), patch=2)
    module.start_linear(network, torch.full((3, 1, 8, 8), 77, dtype=torch.uint8))
    posterior = network.encode(torch.zeros(1, 1, 8, 8)).latent_dist
    assert posterior.kl().item() == pytest.approx(0, abs=1e-5)


def test_patches_are_in_the_key_and_whole_images_are_not():
    plain, other = (seeded(0, "vae", lambda p=p: small_autoencoder(1, (4, 8), patch=p)) for p in (1, 2))
    assert "patch" not in plain.config and key_of(plain) != key_of(other)


def fit_autoencoder(network, digits, **changes):
    given = {"image_size": SIZE, "epochs": 3, "batch_size": 10, "learning_rate": 3e-3, "seed": 0, **changes}
    return train_autoencoder(network, digits, **given)


def test_training_learns_and_scales_the_latents_to_unit_variance(digits, tmp_path):
    network = autoencoder()
    losses = fit_autoencoder(network, digits, epochs=6)
    assert len(losses) == 6 and losses[-1] < losses[0] and not network.training
    factor = network.config.scaling_factor
    write(network, digits.images, tmp_path)
    source = Latents(tmp_path, digits.labels, scaling_factor=factor)
    draws = [source.draw(torch.arange(len(source)), None, torch_generator(0, "x", k)) for k in range(20)]
    assert torch.stack(draws).std() == pytest.approx(1, abs=0.01)


def test_a_killed_training_ends_with_the_same_bits(digits, tmp_path, monkeypatch):
    whole, parts = autoencoder(), autoencoder()
    losses = fit_autoencoder(whole, digits)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 5)
        fit_autoencoder(autoencoder(), digits, folder=tmp_path)
    np.testing.assert_array_equal(fit_autoencoder(parts, digits, folder=tmp_path), losses)
    assert key_of(whole) == key_of(parts)


def test_deviation_is_that_of_samples(network, digits):
    images = torch.from_numpy(resize(digits.images, SIZE))
    found = module.latent_deviation(network, images, batch_size=7)
    with torch.no_grad():
        posterior = network.encode(to_float(images)).latent_dist
    draws = [posterior.sample(torch_generator(0, "x", k)) for k in range(50)]
    assert found == pytest.approx(float(torch.stack(draws).std()), rel=0.01)


# ---- loading -----------------------------------------------------------------------------------------


def test_a_saved_autoencoder_is_the_same_again(network, tmp_path):
    network.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert not loaded.training and loaded.config.scaling_factor == network.config.scaling_factor
    assert key_of(loaded) == key_of(network) == key_of(load_autoencoder(str(tmp_path)))


def test_the_key_follows_weights_and_settings():
    network, other, scaled, short = (autoencoder() for _ in range(4))
    scaled.register_to_config(scaling_factor=0.5)
    with torch.no_grad():
        other.decoder.conv_out.bias[0] += 1e-6
    keys = {key_of(net) for net in (network, other, scaled, short.to(torch.bfloat16))}
    assert len(keys) == 4 and all(len(key) == 16 for key in keys)


def test_a_pickle_is_refused(network, tmp_path):
    network.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(DedtError, match="diffusion_pytorch_model.bin is a pickle.*Convert it"):
        load_autoencoder(tmp_path)
    (tmp_path / SAFETENSORS_WEIGHTS_NAME).write_bytes((tmp_path / "diffusion_pytorch_model.bin").read_bytes())
    with pytest.raises(DedtError, match="holds no readable AutoencoderKL"):
        load_autoencoder(tmp_path)


def test_folders_that_hold_something_else_are_told(network, tmp_path):
    neither = "holds no config.json and no diffusion_pytorch_model.safetensors. Put"
    with pytest.raises(DedtError, match=neither):
        load_autoencoder(tmp_path)
    network.save_pretrained(tmp_path)
    weights, config = tmp_path / SAFETENSORS_WEIGHTS_NAME, tmp_path / CONFIG_NAME
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"layers_per_block": 2}))
    with pytest.raises(DedtError, match="do not fit its config.json .missing tensors: .*, such as"):
        load_autoencoder(tmp_path)
    config.write_text(json.dumps(settings | {"latent_channels": 3}))
    with pytest.raises(DedtError, match="holds no readable AutoencoderKL"):
        load_autoencoder(tmp_path)
    config.write_text(json.dumps(settings))
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(DedtError, match="holds no readable AutoencoderKL"):
        load_autoencoder(tmp_path)


def test_a_name_may_lie_in_the_weights_folder(network, tmp_path, monkeypatch):
    monkeypatch.setenv("DEDT_WEIGHTS", str(tmp_path))
    network.save_pretrained(tmp_path / "someone/vae")
    assert key_of(load_autoencoder("someone/vae")) == key_of(network)


# ---- encoding ----------------------------------------------------------------------------------------


def test_shards_hold_the_posterior_of_the_images_and_of_their_mirror_images(network, digits, tmp_path):
    found = content(write(network, digits.images, tmp_path, flip=True))
    pixels = to_float(torch.from_numpy(resize(digits.images, SIZE)))
    assert found.dtype == np.float16 and found.shape == (30, 2, 2, 4, 4, 4)
    for view, images in enumerate((pixels, pixels.flip(3))):
        with torch.no_grad():
            posterior = network.encode(images).latent_dist
        assert_rounding_apart(found[:, view, 0], posterior.mean.numpy())
        assert_rounding_apart(found[:, view, 1], posterior.std.numpy())


def test_shards_depend_neither_on_batch_nor_on_shard_size(network, digits, tmp_path):
    one = write(network, digits.images, tmp_path / "one")
    many = write(network, digits.images, tmp_path / "many", batch_size=4, shard_size=13)
    assert [len(np.load(path)) for path in sorted(many.glob("*.npy"))] == [13, 13, 4]
    assert_rounding_apart(content(one), content(many))


def test_images_may_be_memory_mapped(network, digits, tmp_path):
    np.save(tmp_path / "images.npy", resize(digits.images, SIZE))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = write(network, np.array(mapped), tmp_path / "a")
    assert (content(write(network, mapped, tmp_path / "b")) == content(expected)).all()


@pytest.fixture
def encoded(monkeypatch):
    """Counts encoded images in ``count``; more than ``limit`` raise KeyboardInterrupt."""
    encoded, moments = SimpleNamespace(count=0, limit=math.inf), module._moments

    def counted(network, pixels):
        encoded.count += len(pixels)
        if encoded.count > encoded.limit:
            raise KeyboardInterrupt
        return moments(network, pixels)

    monkeypatch.setattr(module, "_moments", counted)
    return encoded


def test_a_killed_encoding_goes_on_at_the_next_shard(network, digits, tmp_path, encoded):
    whole = write(network, digits.images, tmp_path / "whole", shard_size=10)
    parts = tmp_path / "parts"
    encoded.count, encoded.limit = 0, 10  # one shard
    with pytest.raises(KeyboardInterrupt):
        write(network, digits.images, parts, shard_size=10)
    assert sorted(path.name for path in parts.glob("[!.]*")) == ["latents-00000.npy", "latents.json"]
    encoded.count, encoded.limit = 0, math.inf
    write(network, digits.images, parts, shard_size=10)
    assert encoded.count == 20
    assert (content(parts) == content(whole)).all()


@pytest.mark.parametrize(
    "file, again", [("latents-00001.npy", 10), ("latents-00002.npy", 10), ("latents.json", 30)]
)
@pytest.mark.parametrize("damage", tiny.DAMAGE)
def test_what_was_damaged_is_encoded_again(file, again, damage, network, digits, tmp_path, encoded, capsys):
    folder = write(network, digits.images, tmp_path / "parts", shard_size=10)
    whole, index = content(folder), (folder / "latents.json").read_bytes()
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    encoded.count = 0
    write(network, digits.images, folder, shard_size=10)
    assert encoded.count == again and f"{folder / file} is damaged" in capsys.readouterr().err
    assert (content(folder) == whole).all() and (folder / "latents.json").read_bytes() == index


def test_what_cannot_be_encoded_is_told(network, digits, tmp_path):
    write(network, digits.images, tmp_path / "x")
    with pytest.raises(DedtError, match="latents of other images, another autoencoder"):
        write(network, digits.images[:5], tmp_path / "x")
    with pytest.raises(DedtError, match="latents of other images, another autoencoder"):
        write(autoencoder(1), digits.images, tmp_path / "x")
    with pytest.raises(DedtError, match="have 1 channel.* expects 3"):
        write(autoencoder(channels=3), digits.images, tmp_path / "y")
    with pytest.raises(DedtError, match="18 does not fit .* multiple of 4"):
        write(network, digits.images, tmp_path / "y", image_size=18)
    broken = autoencoder()
    torch.nn.init.constant_(broken.quant_conv.bias, torch.nan)
    with pytest.raises(DedtError, match="latents of image 0 are not finite"):
        write(broken, digits.images, tmp_path / "y")
    assert not list(tmp_path.glob("y/*.npy"))


# ---- drawing -----------------------------------------------------------------------------------------


@pytest.fixture
def written(network, digits, tmp_path):
    return write(network, digits.images, tmp_path / "latents", flip=True, shard_size=8)


@pytest.fixture
def source(written, digits):
    return Latents(written, digits.labels, scaling_factor=0.5)


INDICES = torch.tensor([29, 0, 8, 7, 0])
FLIP = torch.tensor([True, False, True, False, True])


def test_a_draw_samples_the_posterior(source, written):
    rows = torch.from_numpy(content(written)).float()[INDICES, FLIP.long()]
    noise = torch.randn(rows[:, 0].shape, generator=torch_generator(0, "x"))
    found = source.draw(INDICES, FLIP, torch_generator(0, "x"))
    assert found.dtype == torch.float32 and found.shape == (5, *source.shape) == (5, 4, 4, 4)
    torch.testing.assert_close(found, (rows[:, 0] + rows[:, 1] * noise) * 0.5)


def test_draws_have_the_mean_and_deviation_of_the_posterior(source, written):
    index = torch.full((4000,), 12)
    found = source.draw(index, None, torch_generator(0, "x"))
    mean, deviation = torch.from_numpy(content(written)).float()[12, 0] * 0.5
    assert ((found.mean(0) - mean).abs() < 5 * deviation / 4000**0.5).all()
    torch.testing.assert_close(found.std(0), deviation, rtol=0.08, atol=0)
    torch.testing.assert_close(source.mean(index[:1])[0], mean)


def test_resident_and_memory_mapped_draws_are_the_same(source, monkeypatch):
    mapped = source.draw(INDICES, FLIP, torch_generator(0, "x"))
    assert source.resident is None
    resident = source.to("cpu")
    assert resident.resident is not None and source.resident is None
    assert torch.equal(resident.draw(INDICES, FLIP, torch_generator(0, "x")), mapped)
    monkeypatch.setattr(latents, "RESIDENT", 0)
    assert source.to("cpu").resident is None


def test_only_the_rows_asked_for_are_read(source):
    assert all(isinstance(shard, np.memmap) for shard in source.shards)
    read = []

    class Spy:
        def __init__(self, shard):
            self.shard = shard

        def __getitem__(self, where):
            rows = self.shard[where]
            read.append(len(rows))
            return rows

    source.shards = [Spy(shard) for shard in source.shards]
    source.draw(INDICES, FLIP, torch_generator(0, "x"))
    assert sorted(read) == [1, 1, 3]


def test_labels_and_length(source, digits):
    assert len(source) == 30 and source.labels.tolist() == digits.labels.tolist()


def test_mirror_images_that_were_not_encoded_are_told(network, digits, tmp_path):
    source = Latents(write(network, digits.images, tmp_path), digits.labels, scaling_factor=1.0)
    with pytest.raises(DedtError, match="mirror images were not encoded: encode with flip=True"):
        source.draw(INDICES, FLIP, torch_generator(0, "x"))


def test_latents_of_other_images_and_none_are_told(written, digits):
    with pytest.raises(DedtError, match="latents of 30 images, but there are 5 labels"):
        Latents(written, digits.labels[:5], scaling_factor=1.0)
    for shard in written.glob("*.npy"):
        shard.rename(shard.with_suffix(".away"))
    with pytest.raises(DedtError, match="latents in .* are incomplete or damaged .*: encode again"):
        Latents(written, digits.labels, scaling_factor=1.0)
    (written / latents.INDEX).unlink()
    with pytest.raises(DedtError, match="latents.json does not exist"):
        Latents(written, digits.labels, scaling_factor=1.0)


# ---- decoding ----------------------------------------------------------------------------------------


def test_decoding_undoes_the_scaling_and_rounds(network, source):
    means = source.mean(torch.arange(10)) / source.scaling_factor
    with torch.no_grad():
        expected = ((network.decode(means).sample.clamp(-1, 1) + 1) * 127.5).round().numpy()
    found = decode(network, means * network.config.scaling_factor, batch_size=3)
    assert found.dtype == np.uint8 and found.shape == (10, 1, SIZE, SIZE)
    assert np.abs(found - expected).max() <= 1
    assert decode(network, means, size=8).shape == (10, 1, 8, 8)


def test_another_network_decodes_with_a_scaling_of_its_own():
    network, twin = autoencoder(), autoencoder()
    twin.register_to_config(scaling_factor=network.config.scaling_factor / 3)
    z = torch.randn(4, 4, 4, 4, generator=torch_generator(0, "x"))
    assert np.abs(decode(network, z * 3).astype(int) - decode(twin, z)).max() <= 1


def test_decoding_sees_to_the_type_of_the_weights():
    network = autoencoder().to(torch.bfloat16)
    z = torch.randn(2, 4, 4, 4, generator=torch_generator(0, "x"), dtype=torch.float64)
    exact = decode(autoencoder(), z)
    assert np.abs(decode(network, z).astype(int) - exact).mean() < 3


def test_the_published_shape_is_understood():
    """Stable Diffusion's autoencoder without its weights: 8 pixels per latent, scaled by 0.18215."""
    with torch.device("meta"):
        network = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    assert module.downsampling(network) == 8 and network.config.scaling_factor == 0.18215
    assert sum(p.numel() for p in network.parameters()) == 83_653_863
