"""Each word has one meaning: a recipe describes a run, and a sampler makes images from noise."""

import ast
from pathlib import Path
from typing import get_args

import dedt_lib
from dedt_lib.config import Profile, Recipe
from dedt_lib.config.profile import keys
from dedt_lib.stages import Stage
from dedt_lib.stages.models import MODELS

SOURCES = Path(dedt_lib.__file__).parent.rglob("*.py")
NODES = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]


def test_only_a_recipe_is_called_recipe():
    assert not [key for key in keys(Profile) if "recipe" in key.split(".")]
    assert not hasattr(Stage, "recipe")
    named = [node.annotation for node in NODES if isinstance(node, ast.arg) and node.arg == "recipe"]
    types = {ast.unparse(annotation).strip("'") for annotation in named if annotation}
    assert types == {"Recipe", "Any"}  # Any for keyword arguments that become the fields of a Recipe


def test_only_what_makes_images_from_noise_is_called_a_sampler():
    values = {value for field in Recipe.model_fields.values() for value in get_args(field.annotation)}
    assert "sampler" not in values and not [key for key in keys(Profile) if "sampler" in key]
    assert all(callable(spec.sampler) for spec in MODELS.values())
    assert not [node for node in NODES if isinstance(node, ast.ClassDef) and "Sampler" in node.name]
