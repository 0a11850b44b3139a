import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from dedt_lib import encoders, weights
from dedt_lib.encoders import clip as module
from dedt_lib.errors import DedtError
from dedt_lib.pixels import to_float
from dedt_lib.randomness import seeded
from dedt_lib.training.checkpoint import CHECKPOINT


def small(seed=0, width=4, **settings):
    shape = {"channels": 1, "num_classes": 10, "width": width}
    return seeded(seed, "weights", lambda: encoders.build("clip", **shape, **settings))


def train(net, digits, **changes):
    given = {"epochs": 2, "batch_size": 15, "learning_rate": 2e-3, "seed": 0, **changes}
    return encoders.train_clip(net, digits, **given)


def activations(net):
    from open_clip.transformer import QuickGELU

    kinds = [type(layer) for layer in net.modules()]
    return kinds.count(QuickGELU), kinds.count(nn.GELU)


def test_rn50_is_openais():
    with torch.device("meta"):
        net = encoders.rn50()
    # OpenAI's archive has 102,007,137 parameters and twelve text blocks.
    assert sum(p.numel() for p in net.model.parameters()) == 102_007_137
    assert net.size == 224 and net.model.visual.output_dim == 1024
    assert activations(net) == (12, 0)


def test_quickgelu_cannot_be_switched_off():
    net = encoders.CLIP({**encoders.SMALL_CLIP, "quick_gelu": False})
    assert activations(net) == (2, 0)


def test_images_are_prepared_as_by_open_clip():
    import open_clip

    net = small()
    moments = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    transform = open_clip.image_transform(32, is_train=False, **moments)
    for shape in [(8, 8), (48, 40)]:
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        found = net.preprocess(to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0]
        differences = (found - transform(Image.fromarray(pixels))).abs()
        levels = differences * torch.tensor(module.STD)[:, None, None] * 255
        assert found.shape == (3, 32, 32)
        assert levels.max() < 1.01 and levels.mean() < 0.02


def test_features_are_embeddings_and_unit_vectors_when_asked(digits):
    plain, unit = small(), small(normalise=True)
    embeddings, directions = encoders.embed(plain, digits.images), encoders.embed(unit, digits.images)
    assert embeddings.shape == (len(digits), 128)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert abs(lengths - 1).min() > 1e-3
    np.testing.assert_allclose(directions, embeddings / lengths, rtol=1e-4, atol=1e-6)


def test_captions_are_tokenised_by_clips_own_vocabulary():
    tokens = small().tokens(["a photo of the 3", "3"])
    assert tokens.shape == (2, 24)
    assert tokens[0, :7].tolist() == [49406, 320, 1125, 539, 518, 274, 49407]
    assert tokens[1, :4].tolist() == [49406, 274, 49407, 0]


# ---- training ----------------------------------------------------------------------------------------


def unit(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)


def test_the_loss_of_distinct_labels_is_clips():
    from open_clip.loss import ClipLoss

    image, text, scale = unit(6, 8, 0), unit(6, 8, 1), torch.tensor(math.log(1 / 0.07))
    expected = ClipLoss()(image, text, scale.exp())
    torch.testing.assert_close(module.contrastive_loss(image, text, torch.arange(6), scale), expected)


def test_images_of_one_class_are_not_negatives_of_each_other():
    labels = torch.tensor([0, 0, 1, 1])
    aligned = torch.eye(2)[labels]
    scale = torch.tensor(math.log(100))
    # It makes no difference which of its class's captions an image is nearest to.
    text, swapped = torch.eye(4), torch.eye(4)[[1, 0, 3, 2]]
    loss, warm = module.contrastive_loss, torch.tensor(1.0)
    torch.testing.assert_close(loss(swapped, text, labels, warm), loss(text, text, labels, warm))
    # With images and captions aligned by class, only the choice between two equal captions is left: log 2.
    assert loss(aligned, aligned, labels, scale).item() == pytest.approx(math.log(2), abs=1e-4)


def test_the_temperature_is_bounded():
    image, text, labels = unit(6, 8, 0), unit(6, 8, 1), torch.arange(6)
    bound, beyond = torch.tensor(math.log(100)), torch.tensor(50.0)
    loss = module.contrastive_loss
    assert torch.equal(loss(image, text, labels, bound), loss(image, text, labels, beyond))


def test_training_learns_to_name_the_digits(digits):
    net = small(width=8)
    losses = train(net, digits, epochs=30, batch_size=6)
    assert losses[-1] < losses[0]
    assert encoders.zero_shot_accuracy(net, digits) > 0.7


def test_a_killed_training_ends_with_the_same_bits(tmp_path, digits, monkeypatch):
    whole, parts = small(), small()
    losses = train(whole, digits)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 3)
        train(small(), digits, folder=tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == [CHECKPOINT]
    np.testing.assert_array_equal(train(parts, digits, folder=tmp_path), losses)
    tiny.assert_same_weights(whole, parts)


def test_gains_and_biases_are_not_decayed(digits, monkeypatch):
    groups = tiny.recorded(monkeypatch, lambda run: run.optimizer.param_groups)
    train(small(), digits, epochs=1)
    decayed, others = groups[0]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    assert {p.ndim for p in others["params"]} == {0, 1} and min(p.ndim for p in decayed["params"]) == 2


def test_zero_shot_accuracy_compares_with_every_class(digits):
    class Names(nn.Module):
        """Embeds an image as its label, and a caption as its digit plus ``step``, modulo 10."""

        def __init__(self, step):
            super().__init__()
            self.step, self.seen = step, 0

        def features(self, images):
            self.seen += len(images)
            return torch.eye(10)[torch.from_numpy(digits.labels[self.seen - len(images) : self.seen])]

        def text_features(self, texts):
            return torch.eye(10)[[(int(text[-1]) + self.step) % 10 for text in texts]]

    assert encoders.zero_shot_accuracy(Names(0), digits) == 1.0
    assert encoders.zero_shot_accuracy(Names(1), digits) == 0.0


# ---- OpenAI's archive --------------------------------------------------------------------------------


class Node(nn.Module):
    def forward(self, x):
        return x


def torchscript_archive(state, path):
    """Write tensors as a TorchScript archive in OpenAI's form: half precision and three facts."""
    root = Node()
    facts = {"input_resolution": 32, "context_length": 24, "vocab_size": 49408}
    for name, value in state.items():
        *parents, leaf = name.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, Node())
            node = getattr(node, parent)
        node.register_buffer(leaf, value.half() if value.is_floating_point() else value)
    for name, value in facts.items():
        root.register_buffer(name, torch.tensor(value))
    torch.jit.script(root).save(path)


def test_openais_archive_is_read_after_its_hash_was_checked(tmp_path, monkeypatch, digits):
    official = small(seed=5, width=8)
    file = tmp_path / "RN50.pt"
    torchscript_archive(official.model.state_dict(), file)
    url = f"http://127.0.0.1:9/{weights.sha256(file)}/RN50.pt"
    monkeypatch.setitem(weights.ADDRESSES, "clip-rn50-openai", lambda: url)
    monkeypatch.setitem(encoders.PRETRAINED, "clip", (lambda **s: small(width=8, **s), "clip-rn50-openai"))
    net = encoders.pretrained("clip", file, normalise=True)
    assert {p.dtype for p in net.parameters()} == {torch.float32} and net.normalise
    expected = encoders.embed(small(seed=5, width=8, normalise=True), digits.images)
    np.testing.assert_allclose(encoders.embed(net, digits.images), expected, rtol=0.02, atol=0.002)

    file.write_bytes(file.read_bytes() + b"x")
    opened = []
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: opened.append(a) or SimpleNamespace())
    with pytest.raises(DedtError, match="not the official RN50.pt"):
        encoders.pretrained("clip", file)
    assert not opened
