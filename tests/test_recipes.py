import pytest
from pydantic import ValidationError

from dedt_lib.config.profile import PROFILES, Profile, checked, load_profile, profile_names
from dedt_lib.config.recipe import Recipe
from dedt_lib.errors import DedtError


def toml(tmp_path, **changes):
    """The smoke profile as a file of one's own, with lines replaced."""
    lines = (PROFILES / "smoke.toml").read_text().splitlines()
    lines = [line for line in lines if line.split(" ")[0] not in changes]
    file = tmp_path / "mine.toml"
    file.write_text("\n".join(lines + [f"{key} = {value}" for key, value in changes.items()]))
    return file


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid(name):
    profile = load_profile(name)
    assert profile.name == name and all(0 < ratio < 1 for ratio in profile.ratios)


def test_smoke_and_digits_are_there():
    assert {"smoke", "digits"} <= set(profile_names())


def test_a_profile_can_be_a_file_of_ones_own(tmp_path):
    profile = load_profile(toml(tmp_path, epochs=3))
    assert profile.name == "mine" and profile.epochs == 3


def test_single_values_can_be_changed():
    smoke = load_profile("smoke")
    changed = load_profile("smoke", epochs=2)
    assert changed.epochs == 2 and changed.model_dump() == {**smoke.model_dump(), "epochs": 2}
    assert load_profile(smoke, epochs=2) == changed and load_profile(smoke) is smoke


def test_profiles_and_recipes_cannot_be_changed_in_place():
    for thing in (load_profile("smoke"), Recipe()):
        with pytest.raises(ValidationError):
            thing.name = "other"


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(
        DedtError, match="Unknown profile 'tiny'. Choose one of: .*digits, .*smoke, or give a .toml file"
    ):
        load_profile("tiny")


def test_an_unknown_key_lists_the_valid_ones(tmp_path):
    with pytest.raises(
        DedtError, match="unknown parameter 'epoch'; the valid ones are: .*epochs, batch_size"
    ):
        load_profile(toml(tmp_path, epoch=3))


@pytest.mark.parametrize(
    "key, value",
    [
        ("epochs", 0),
        ("epochs", "many"),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("data", "mnist"),
        ("channels", 2),
        ("label_dropout", 1.5),
        ("dro_burn_in", 1.0),
        ("moderate_scope", "each"),
        ("flip", "perhaps"),
        ("ratios", ()),
        ("ratios.1", (0.1, 0)),
        ("ratios.0", (2,)),
        ("seeds", ()),
        ("sampler_steps", 1001),
    ],
)
def test_a_bad_value_is_named(key, value):
    with pytest.raises(DedtError, match=rf"^{key}: .*\(got "):
        load_profile("smoke", **{key.split(".")[0]: value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"unet_attention": (False,)}, "one entry per resolution level"),
        ({"unet_attention": (), "unet_channels": ()}, "one entry per resolution level"),
        ({"unet_groups": 3}, "must be divisible by unet_groups"),
        ({"image_size": 7}, "image_size must be divisible by 2 for 2 levels"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(DedtError, match=message):
        load_profile("smoke", **{"unet_channels": (8, 16), **changes})


def test_a_missing_value_is_named():
    values = load_profile("smoke").model_dump()
    del values["epochs"]
    with pytest.raises(DedtError, match="missing: epochs"):
        checked(Profile, values)


def test_all_complaints_come_at_once():
    with pytest.raises(DedtError, match="epochs.*; batch_size"):
        load_profile("smoke", epochs=0, batch_size=0)


def test_a_file_that_is_not_toml(tmp_path):
    for content in (b"epochs = = 3", b"\xff\xfe"):
        (tmp_path / "mine.toml").write_bytes(content)
        with pytest.raises(DedtError, match="mine.toml is not valid TOML"):
            load_profile(tmp_path / "mine.toml")


def test_the_default_recipe_is_the_papers_smallest_coreset():
    recipe = Recipe()
    assert (recipe.method, recipe.ratio, recipe.reweighting, recipe.annealing) == (
        "moderate",
        0.1,
        False,
        False,
    )


@pytest.mark.parametrize(
    "given, message",
    [
        ({"ratio": 0}, "ratio: .*greater than 0"),
        ({"ratio": 2}, "ratio: .*less than or equal to 1"),
        ({"ratio": "a tenth"}, "ratio: .*valid number"),
        ({"method": "best"}, "method: .*'random', 'gaussian' or 'moderate'"),
        ({"scope": "each"}, "scope: "),
        ({"burn_in": 1.0}, "burn_in: .*less than 1"),
        ({"seed": -1}, "seed: "),
        ({"rate": 0.1}, "unknown parameter 'rate'; the valid ones are: model, method, ratio"),
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


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_library_is_valid(name):
    profile = load_profile(name)
    assert profile.name == name and 1 not in profile.ratios


def test_the_paper_profile_holds_the_published_settings():
    paper = load_profile("paper")
    assert (paper.data, paper.epochs, paper.batch_size, paper.learning_rate) == ("cifar10", 2000, 128, 1e-4)
    assert (paper.sampler_steps, paper.guidance, paper.samples) == (100, 0.3, 50_000)
    assert (paper.ema_decay, paper.label_dropout, paper.flip, paper.warmup_epochs) == (0.9999, 0.1, True, 13)
    assert (paper.dro_burn_in, paper.dro_step_size, paper.dro_smoothing) == (0, 1, 1e-3)
    assert (paper.moderate_scope, paper.annealing_start, paper.metric) == ("global", 0.875, "inceptionv3")
    assert (paper.ddae_block, paper.ddae_timestep, paper.resnet18_recipe) == (6, 11, "published")


def test_imagenet_and_imagenette_hold_the_published_settings_of_the_latent_models():
    imagenet, imagenette = load_profile("imagenet"), load_profile("imagenette")
    for p in (imagenet, imagenette):
        assert (p.data, p.path, p.image_size, p.latent_image_size, p.channels) == ("folder", "", 256, 256, 3)
        assert (p.samples, p.flip, p.gradient_clip, p.classwise) == (50_000, True, 1.0, False)
        assert (p.metric, p.label_dropout) == ("inceptionv3", 0.1)
    assert (imagenet.tables, imagenet.encoder, imagenet.cmmd) == (("table4",), "inceptionv3", "vit-l-14-336")
    assert (imagenet.inceptionv3_weights, imagenet.inceptionv3_size) == ("imagenet", 299)
    assert imagenet.vae_weights == "stabilityai/sd-vae-ft-mse"
    assert imagenet.vae_decoder_weights == "stabilityai/sd-vae-ft-ema"
    assert (imagenette.vae_weights, imagenette.vae_decoder_weights) == ("pipeline", "")
    assert (imagenette.tables, imagenette.encoder) == (("table5",), "resnet18")
    assert (imagenette.resnet18_weights, imagenette.clip_weights) == ("imagenet", "openai")
    published = {name: field.default for name, field in Profile.model_fields.items()}
    for p, prefix in ((imagenet, "mdt_"), (imagenette, "sd_")):
        own = [name for name in published if name.startswith(prefix)]
        assert set(own) <= p.model_fields_set and p.pick(*own) == {name: published[name] for name in own}


def test_imagenette_names_its_ten_classes_for_the_captions():
    names = load_profile("imagenette").class_names
    assert len(set(names)) == 10 and (names[0], names[5], names[-1]) == ("tench", "French horn", "parachute")
    assert load_profile("digits").class_names == ()
