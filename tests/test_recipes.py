import re
import tomllib

import pytest
from pydantic import ValidationError

from dedt_lib.config.profile import (
    MDT,
    PROFILES,
    Profile,
    StableDiffusion,
    checked,
    find_profile,
    flat,
    load_profile,
    profile_names,
    read_profile,
)
from dedt_lib.config.recipe import Recipe
from dedt_lib.errors import DedtError


def toml(tmp_path, text, name="mine"):
    """Write a user's profile file."""
    file = tmp_path / f"{name}.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid(name):
    profile = load_profile(name)
    assert profile.name == name and all(0 < ratio < 1 for ratio in profile.unet.ratios)


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_holds_only_what_is_its_own(name):
    own = tomllib.loads((PROFILES / f"{name}.toml").read_text())
    base = own.pop("extends", None)
    inherited = flat(load_profile(base).model_dump(mode="json")) if base else defaults(Profile)
    assert not {key: value for key, value in flat(own).items() if inherited.get(key) == value}


def defaults(model, prefix=""):
    """The defaults of a pydantic model and its sections: dotted key -> value as in a TOML file."""
    found = {}
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            found |= defaults(field.annotation, f"{prefix}{name}.")
        elif not field.is_required():
            value = field.get_default()
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found


def test_a_profile_can_be_a_file_of_ones_own_that_extends_another(tmp_path):
    profile = load_profile(toml(tmp_path, 'extends = "smoke"\n[unet]\nepochs = 3'))
    expected = load_profile("smoke", name="mine", **{"unet.epochs": 3})
    assert profile == expected and profile.unet.epochs == 3
    toml(tmp_path, 'extends = "mine.toml"\nunet.steps = 7\ndata = {per_class = 9}', "other")
    other = load_profile(tmp_path / "other.toml")
    assert (other.name, other.unet.steps, other.unet.epochs, other.data.per_class) == ("other", 7, 3, 9)


@pytest.mark.parametrize(
    "base, message",
    [
        ("large", "Unknown profile 'large'"),
        ("gone.toml", "profile file .*gone.toml does not exist"),
        ("mine.toml", "cannot extend itself: mine.toml extends mine.toml"),
        ("two.toml", "mine.toml extends two.toml extends mine.toml"),
    ],
)
def test_a_profile_extends_one_that_is_there_and_not_itself(base, message, tmp_path):
    toml(tmp_path, 'extends = "mine.toml"', "two")
    with pytest.raises(DedtError, match=message):
        load_profile(toml(tmp_path, f'extends = "{base}"'))


def test_every_value_of_a_profile_comes_from_a_file():
    values = read_profile(find_profile("cifar10-cpu"))
    assert values["encoders.resnet18.width"] == (16, "cifar10-cpu.toml")
    assert values["unet.epochs"] == (200, "short.toml") and values["unet.layers"] == (2, "paper.toml")
    assert values["name"] == ("cifar10-cpu", "cifar10-cpu.toml") and "mdt.depth" not in values


@pytest.mark.parametrize("changes", [{"unet.epochs": 2}, {"unet": {"epochs": 2}}])
def test_single_values_can_be_changed(changes):
    smoke = load_profile("smoke")
    changed = load_profile("smoke", **changes)
    assert flat(changed.model_dump()) == {**flat(smoke.model_dump()), "unet.epochs": 2}
    assert load_profile(smoke, **changes) == changed and load_profile(smoke) is smoke


@pytest.mark.parametrize(
    "key, near",
    [
        ("epochs", "unet.epochs, autoencoder.epochs, mdt.epochs"),
        ("unet.epoch", "unet.epochs"),
        ("sd_weights", "autoencoder.weights, stable_diffusion.weights"),
        ("dro_burn_in", "reweight.burn_in"),
        ("image_size", "data.image_size, autoencoder.image_size"),
        ("unet", ".*unet.steps"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key, near, tmp_path):
    with pytest.raises(DedtError, match=f"unknown parameter '{key}'; the nearest are: {near}"):
        load_profile("smoke", **{key: 1})
    with pytest.raises(DedtError, match=f"unknown parameter '{key}'"):
        load_profile(toml(tmp_path, f'extends = "smoke"\n{key} = 1'))


def test_profiles_and_recipes_cannot_be_changed_in_place():
    for thing in (load_profile("smoke"), Recipe()):
        with pytest.raises(ValidationError):
            thing.name = "other"


def test_an_unknown_profile_lists_the_known_ones():
    message = "Unknown profile 'tiny'. Choose one of: .*digits, .*smoke, or give a .toml file"
    with pytest.raises(DedtError, match=message):
        load_profile("tiny")


@pytest.mark.parametrize(
    "key, value",
    [
        ("unet.epochs", 0),
        ("unet.epochs", "many"),
        ("unet.learning_rate", -1e-3),
        ("unet.learning_rate", float("nan")),
        ("data.source", "mnist"),
        ("data.channels", 2),
        ("train.label_dropout", 1.5),
        ("reweight.burn_in", 1.0),
        ("select.moderate_scope", "each"),
        ("train.flip", "perhaps"),
        ("unet.ratios", ()),
        ("unet.ratios.1", (0.1, 0)),
        ("unet.ratios.0", (2,)),
        ("seeds", ()),
        ("unet.steps", 1001),
    ],
)
def test_a_bad_value_is_named(key, value):
    with pytest.raises(DedtError, match=rf"^{key}: .*\(got "):
        load_profile("smoke", **{re.sub(r"\.\d$", "", key): value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"unet.attention": (False,)}, "one entry per resolution level"),
        ({"unet.attention": (), "unet.channels": ()}, "one entry per resolution level"),
        ({"unet.groups": 3}, "channels must be divisible by groups"),
        ({"data.image_size": 7}, "data.image_size must be divisible by 2 for 2 levels"),
        (
            {"unet.latent": True, "autoencoder.image_size": 4},
            "the width of the latents, 1, must be divisible by 2 for 2 levels in unet.channels",
        ),
        (
            {"autoencoder.patch": 3},
            "image_size must be divisible by 12 for 3 levels in channels and patches of 3",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(DedtError, match=message):
        load_profile("smoke", **{"unet.channels": (8, 16), **changes})


def test_a_missing_value_is_named():
    values = flat(load_profile("smoke").model_dump())
    del values["unet.epochs"]
    with pytest.raises(DedtError, match="missing: unet.epochs"):
        checked(Profile, values)


def test_all_complaints_come_at_once():
    with pytest.raises(DedtError, match="unet.epochs.*; unet.batch_size"):
        load_profile("smoke", **{"unet.epochs": 0, "unet.batch_size": 0})


def test_a_file_that_is_not_toml(tmp_path):
    for content in (b"seeds = = 3", b"\xff\xfe"):
        (tmp_path / "mine.toml").write_bytes(content)
        with pytest.raises(DedtError, match="mine.toml cannot be read as TOML"):
            load_profile(tmp_path / "mine.toml")


def test_the_default_recipe_is_the_papers_smallest_coreset():
    recipe = Recipe()
    assert (recipe.method, recipe.ratio) == ("moderate", 0.1)
    assert not recipe.reweighting and not recipe.annealing


@pytest.mark.parametrize(
    "given, message",
    [
        ({"ratio": 0}, "ratio: .*greater than 0"),
        ({"ratio": 2}, "ratio: .*less than or equal to 1"),
        ({"ratio": "a tenth"}, "ratio: .*valid number"),
        ({"method": "best"}, "method: choose one of: random, gaussian, moderate .got 'best'"),
        ({"scope": "each"}, "scope: "),
        ({"burn_in": 1.0}, "burn_in: .*less than 1"),
        ({"seed": -1}, "seed: "),
        ({"rate": 0.1}, "unknown parameter 'rate'; the nearest are: ratio"),
        ({"reweighting": True, "early_stopping": True}, "no coreset to reweight"),
        ({"infobatch": "ratio", "reweighting": True}, "infobatch has no coreset"),
        ({"infobatch": "budget", "early_stopping": True}, "infobatch has no coreset"),
        ({"infobatch": "often"}, "infobatch"),
        ({"method": "random", "encoder": "dinov2"}, "'random' makes no use of encoder"),
        ({"method": "random", "band": "nearest"}, "'random' makes no use of band"),
        ({"method": "gaussian", "centre": "mean"}, "'gaussian' makes no use of centre"),
    ],
)
def test_a_bad_recipe_says_what_is_valid(given, message):
    with pytest.raises(DedtError, match=message):
        checked(Recipe, given)


def test_a_copy_of_a_profile_needs_a_name_of_its_own(tmp_path):
    (tmp_path / "digits.toml").write_text((PROFILES / "digits.toml").read_text())
    with pytest.raises(DedtError, match="rename it"):
        load_profile(str(tmp_path / "digits.toml"))


# ---- the published settings ----------------------------------------------------------------------


def test_the_paper_profile_holds_the_published_settings():
    paper = load_profile("paper")
    unet, train, ddae = paper.unet, paper.train, paper.encoders.ddae
    assert (paper.data.source, paper.evaluate.network) == ("cifar10", "inceptionv3")
    assert (unet.epochs, unet.batch_size, unet.learning_rate, unet.ema_decay) == (2000, 128, 1e-4, 0.9999)
    assert (unet.steps, unet.guidance, paper.sample.count) == (100, 0.3, 50_000)
    assert (train.label_dropout, train.flip, train.warmup_steps) == (0.1, True, 13 * -(-50_000 // 128))
    assert (paper.reweight.burn_in, paper.reweight.step_size, paper.reweight.smoothing) == (0, 1, 1e-3)
    assert (paper.select.moderate_scope, train.annealing_start) == ("global", 0.875)
    assert (ddae.block, ddae.timestep, paper.encoders.resnet18.procedure) == (6, 11, "published")


def test_imagenet_and_imagenette_hold_the_published_settings_of_the_latent_models():
    imagenet, imagenette = load_profile("imagenet"), load_profile("imagenette")
    for p in (imagenet, imagenette):
        assert (p.data.source, p.data.path, p.data.image_size, p.data.channels) == ("folder", "", 256, 3)
        assert (p.autoencoder.image_size, p.sample.count) == (256, 50_000)
        assert (p.train.flip, p.train.gradient_clip, p.train.label_dropout) == (True, 1.0, 0.1)
        assert (p.evaluate.network, p.evaluate.classwise) == ("inceptionv3", False)
    assert (imagenet.tables, imagenet.encoders.default) == (("table4",), "inceptionv3")
    assert imagenet.evaluate.cmmd == "vit-l-14-336"
    assert (imagenet.encoders.inceptionv3.weights, imagenet.encoders.inceptionv3.size) == ("imagenet", 299)
    assert imagenet.autoencoder.weights == "stabilityai/sd-vae-ft-mse"
    assert imagenet.autoencoder.decoder_weights == "stabilityai/sd-vae-ft-ema"
    assert (imagenette.autoencoder.weights, imagenette.autoencoder.decoder_weights) == ("pipeline", "")
    assert (imagenette.tables, imagenette.encoders.default) == (("table5",), "resnet18")
    assert (imagenette.encoders.resnet18.weights, imagenette.encoders.clip.weights) == ("imagenet", "openai")
    assert imagenet.mdt == MDT() and imagenette.stable_diffusion == StableDiffusion()


def test_imagenette_names_its_ten_classes_for_the_captions():
    names = load_profile("imagenette").data.class_names
    assert len(set(names)) == 10 and (names[0], names[5], names[-1]) == ("tench", "French horn", "parachute")
    assert load_profile("digits").data.class_names == ()
