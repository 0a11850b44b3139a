"""pyproject.toml, constraints.txt and environment.yml say the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def test_constraints_hold_names_and_versions_only():
    assert CONSTRAINTS
    for line in CONSTRAINTS:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", line), line
    names = [canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS]
    assert len(set(names)) == len(names) and PROJECT["name"] not in names


def test_every_dependency_is_pinned_to_a_version_that_fits():
    pinned = {
        canonicalize_name(name): version for name, version in (line.split("==") for line in CONSTRAINTS)
    }
    for requirement in map(Requirement, REQUIREMENTS):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_conda_environment_lists_the_same_requirements():
    *conda, pip = ENVIRONMENT["dependencies"]
    assert conda == ["python=3.11", "pip"] and ENVIRONMENT["channels"] == ["conda-forge"]
    constraints, *listed, project = pip["pip"]
    assert (constraints, project) == ("-c constraints.txt", "-e .")
    assert listed == REQUIREMENTS
