"""``tools/fid_over_steps.py`` and ``tools/reconstruction.py``."""

import json

import fid_over_steps
import reconstruction
import tiny

from dedt_lib.book import findings, results
from dedt_lib.stages import Lab
from dedt_lib.store import Store


def test_every_run_is_measured_on_its_way_and_at_its_end(tmp_path):
    profile = tiny.profile(**{"tables": ("controls",), "data.per_class": 20, "unet.epochs": 4})
    lab = Lab(profile, store=Store(tmp_path), device="cpu")
    rows = fid_over_steps.measure(lab, (0,))
    ends = {ratio: max(row["steps"] for row in rows if row["ratio"] == ratio) for ratio in (1.0, 0.1, 0.4)}
    assert set(ends.values()) == {4 * 8}  # the same number of steps for few images as for all
    assert all(sum(row["ratio"] == ratio for row in rows) >= 3 for ratio in ends)
    assert {row["seed"] for row in rows} == {0} and all(row["fid"] > 0 for row in rows)


def test_other_seeds_stay_in_the_file(tmp_path):
    for seed, fid in ((0, 1.0), (1, 2.0), (0, 3.0)):
        fid_over_steps.add(tmp_path / "new" / "a.json", [{"seed": seed, "fid": fid}], {"machine": fid})
    found = json.loads((tmp_path / "new" / "a.json").read_text())
    assert found["rows"] == [{"seed": 0, "fid": 3.0}, {"seed": 1, "fid": 2.0}]
    assert found["provenance"] == {"0": {"machine": 3.0}, "1": {"machine": 2.0}}


def test_an_autoencoder_that_learned_little_costs_much(tmp_path):
    lab = Lab(tiny.profile(**{"data.per_class": 5}), store=Store(tmp_path), device="cpu")
    facts = reconstruction.measure(lab)
    assert facts["fid"] > 0 and 10 < facts["error"] < 255
    assert f"FID of {facts['fid']:.2f} against themselves" in findings.reconstruction_in_words(facts)
    assert results.reconstruction("smoke", root=tmp_path) == {} and findings.reconstruction_in_words({}) == ""
