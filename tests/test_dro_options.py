"""``tools/dro_options.py``, and the table that chapter 04 makes from its results."""

import dro_options
import numpy as np
import pandas as pd
import pytest
import tiny

from dedt_lib.book import findings, results
from dedt_lib.config.profile import load_profile
from dedt_lib.experiment import Experiment
from dedt_lib.files import write_json
from dedt_lib.store import Store


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    profile = tiny.profile(seeds=(0, 1), **{"data.per_class": 20, "unet.epochs": 4})
    return profile, store, dro_options.measure(profile, store)


def test_every_setting_is_a_row_around_the_default(measured):
    _, _, rows = measured
    assert [row["setting"] for row in rows] == list(dro_options.SETTINGS)
    assert rows[0]["with_default"] == pytest.approx([1, 1])
    for row in rows:
        weights = np.array(row["weights"])
        assert weights.shape == (2, 10) and weights.sum(axis=1) == pytest.approx([1, 1], abs=1e-3)
        assert 1 <= row["effective_classes"] <= 10 and 0 <= row["clipped"] <= 1
        assert len(row["between_seeds"]) == 1


def test_a_window_is_read_from_the_trajectory_that_is_there(measured):
    profile, store, rows = measured
    trained = len(list((store.root / "proxy").glob("*/manifest.json")))
    recipe = {"method": "moderate", "encoder": "resnet18", "ratio": 0.1, "reweighting": True, "seed": 1}
    half = load_profile(profile, **{"reweight.window": 0.5})
    windowed = Experiment(half, store=store, device="cpu", **recipe)
    row = next(row for row in rows if row["setting"] == "average of the last half")
    np.testing.assert_allclose(windowed.reweight()["weights"], row["weights"][1], atol=1e-5)
    # Two seeds of the ten settings that need a proxy of their own, and the one trained above.
    assert trained == 20 and len(list((store.root / "proxy").glob("*/manifest.json"))) == 21


def test_the_table_of_the_book_reads_what_was_measured(measured, tmp_path):
    _, _, rows = measured
    assert results.dro_options("smoke", root=tmp_path).empty
    folder = results.results_folder("smoke", tmp_path)
    folder.mkdir(parents=True)
    write_json(folder / "dro-options.json", {"rows": rows})
    table = results.dro_options("smoke", root=tmp_path)
    assert table.index.tolist() == [row["setting"] for row in rows]
    assert table.loc["default", "with_default"] == pytest.approx(1)
    assert (table.lowest <= table.between_seeds + 1e-12).all()


def test_what_is_said_of_the_default_follows_the_numbers():
    table = pd.DataFrame({"lowest": [0.9, 0.97, 0.6, 0.91], "classes": 10}, ["default", "a", "b", "c"])
    told = findings.options(table)
    assert "is 0.90 for the default, and 0.60 (b) to 0.97 (a) for the other settings" in told
    assert "not measured" in findings.options(pd.DataFrame())
