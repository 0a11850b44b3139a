"""pyproject.toml, constraints.txt and environment.yml agree; values passed to a shell are quoted."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
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
    names, versions = zip(*(line.split("==") for line in CONSTRAINTS))
    pinned = dict(zip(map(canonicalize_name, names), versions))
    for requirement in map(Requirement, REQUIREMENTS):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_conda_environment_lists_the_same_requirements():
    *conda, pip = ENVIRONMENT["dependencies"]
    assert conda == ["python=3.11", "pip"] and ENVIRONMENT["channels"] == ["conda-forge"]
    constraints, *listed, project = pip["pip"]
    assert (constraints, project) == ("-c constraints.txt", "-e .")
    assert listed == REQUIREMENTS


# ---- the grid ------------------------------------------------------------------------------------


def test_all_profiles_of_the_grid_may_be_killed_whenever_one_likes():
    profiles = [yaml.safe_load(path.read_text()) for path in ROOT.glob("profiles/*/config.yaml")]
    policy = dict.fromkeys(("nolock", "rerun-incomplete", "keep-going"), True)
    policy["rerun-triggers"] = ["mtime", "input"]
    assert len(profiles) == 4
    assert all({key: profile.get(key) for key in policy} == policy for profile in profiles)


STUB = """#!/bin/sh
printf '%s\\n' "$0" "$@" >>"$CALLS"
"""
# Each part of this path once ran a command, ended a word, or was misread when it was given as a profile.
ODD = "my; touch a `touch b` $(touch c) $(shell touch d) 'e' \"f\" #g: h & -i *.toml"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout in a folder with a space in its name; its programs record how they were called."""
    folder = tmp_path / "my clone"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "Snakefile", "pyproject.toml", "constraints.txt", "_toc.yml"):
        shutil.copy(ROOT / name, folder)
    for name in ("profiles", "notebooks", "tools"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("python", "pip", "snakemake", "papermill", "jupyter-book", "dedt"):
        (folder / ".venv" / "bin" / name).write_text(STUB)
        (folder / ".venv" / "bin" / name).chmod(0o755)
    (folder / ".venv" / ".installed").touch()
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    return folder


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    created = {path.name for path in folder.iterdir()} & set("abcd")
    assert not created
    return done


@pytest.mark.parametrize("profile", ["smoke", ODD, "$(shell touch d)"])
def test_make_hands_a_profile_on_as_it_is(profile, checkout, tmp_path):
    assert run(checkout, "make", "tables", f"PROFILE={profile}").returncode == 0
    *_, program, flag, place, config, given = (tmp_path / "calls").read_text().splitlines()
    assert program == str(checkout / ".venv" / "bin" / "snakemake")
    assert (flag, place, config) == ("--workflow-profile", "profiles/local", "--config")
    name, _, value = given.partition("=")
    assert (name, yaml.safe_load(value.strip("'\""))) == ("profile", profile)  # as Snakemake reads it
    run(checkout, "make", "book", f"PROFILE={profile}")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[calls.index("profile") + 1] in (profile, str(checkout / profile))


def test_make_pdf_finds_a_browser_wherever_it_stands_in_the_list(checkout, tmp_path, monkeypatch):
    for name in ("chromium", "google-chrome-stable"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        told = run(checkout, "make", "-n", "pdf", "PROFILE=smoke")
        assert (
            re.search(f'test -n ".*/{name}"|test -n ".*/chromium"', told.stdout)
            and "chrom" not in told.stderr
        )


def test_make_pdf_prints_one_page_whose_links_stay_in_it(checkout, tmp_path):
    browser, page = checkout / ".venv/bin/my browser", checkout / "_build/smoke/_build/page"
    prints = """for word; do case "$word" in --print-to-pdf=*) echo pdf >"${word#*=}";; esac; done\n"""
    for program, more in ((browser, prints), (browser.with_name("sphinx-build"), "")):
        program.write_text(STUB + more)
        program.chmod(0o755)
    (page / "book").mkdir(parents=True)
    (page / "book" / "intro.html").write_text('<a href="book/intro.html#dedt_lib.errors">')
    built = ["make", "-o", "_build/smoke/_build/html/index.html", "_build/smoke/book.pdf", "PROFILE=smoke"]
    assert run(checkout, *built, f"BROWSER={browser}").returncode == 0
    assert (page / "book.html").read_text() == '<a href="#dedt_lib.errors">'
    *_, pdf, opened = (tmp_path / "calls").read_text().splitlines()
    assert (pdf, opened) == ("--print-to-pdf=_build/smoke/book.pdf", str(page / "book.html"))
    browser.write_text(STUB)  # a browser that silently prints nothing
    (checkout / "_build" / "smoke" / "book.pdf").unlink()
    assert run(checkout, *built, f"BROWSER={browser}").returncode != 0


def test_snakemake_hands_a_profile_on_as_it_is(checkout, tmp_path):
    """A cell of a profile whose path has characters special to a shell, up to the call of papermill."""
    profile = tmp_path / ODD
    shutil.copy(ROOT / "dedt_lib" / "config" / "profiles" / "smoke.toml", profile)
    papermill = checkout / ".venv" / "bin" / "papermill"
    papermill.write_text(STUB + 'mkdir -p "$DEDT_RESULTS" && touch "$DEDT_RESULTS/../made"\n')
    cell = f"results/{profile.stem}/pending/random-10-0.json"
    environment = f"PATH={papermill.parent}:{os.environ['PATH']}"
    snakemake = [sys.executable, "-m", "snakemake", cell, "--workflow-profile", "profiles/local"]
    config = "profile=!!str '{}' #".format(str(profile).replace("'", "''"))
    done = run(checkout, "env", environment, *snakemake, "--config", config, "--latency-wait", "0")
    assert (tmp_path / "calls").exists(), done.stderr
    program, *given = (tmp_path / "calls").read_text().splitlines()
    assert given[:2] == ["notebooks/cell.ipynb", f"_build/{profile.stem}/logs/random-10-0.ipynb"]
    assert given[-12:-9] == ["-r", "profile", str(profile)]
    assert given[-9:] == "-r row random -p percent 10 -p seed 0".split()
    assert (checkout / "made").exists()
