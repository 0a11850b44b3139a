import numpy as np
import pandas as pd
import pytest
from test_figures import drawn

from dedt_lib.book import claims, figures, grid, paper
from dedt_lib.book.claims import CLAIMS, PAPER, Claim

OURS = "moderate-reweighted"


def results(**rows):
    """Results at 10 % (of "full" at 100 %) of rows, whose FIDs are given seed by seed."""
    cells = [
        (row.replace("_", "-"), 1.0 if row == "full" else 0.1, seed, fid)
        for row, fids in rows.items()
        for seed, fid in enumerate(fids)
    ]
    return pd.DataFrame(cells, columns=["row", "ratio", "seed", "fid"])


RANDOM = Claim("against random", "Table I", OURS, "random")
FULL = Claim("against all the data", "Table I", OURS, "full")


def test_a_change_is_that_of_the_geometric_means():
    frame = results(moderate_reweighted=[1, 4, 4], random=[2, 2, 2], full=[1, 2])
    table = claims.changes({"here": frame}, [RANDOM, FULL]).set_index(["said", "source"])
    here = table.loc["against random", "here"]
    logs = np.log([0.5, 2, 2])
    half = 4.302653 * logs.std(ddof=1) / 3**0.5  # Student's t, two degrees of freedom
    assert here.change == pytest.approx(2 ** (1 / 3) - 1)
    assert (here.low, here.high) == pytest.approx(tuple(np.exp(logs.mean() + np.array([-half, half])) - 1))
    assert here.seeds == 3
    everything = table.loc["against all the data", "here"]  # at each ratio, with the seeds of both
    assert everything.change == pytest.approx(2**0.5 - 1) and everything.seeds == 2
    assert table.loc["against random", PAPER].change == pytest.approx(6.71 / 8.12 - 1)
    assert table.loc["against all the data", PAPER].change == pytest.approx(6.71 / 3.66 - 1)


def test_a_row_may_stand_for_one_of_the_paper():
    claim = Claim(
        "by CLIP", "Table I", "clip-moderate", "random", instead={"clip-moderate": "lite0-moderate"}
    )
    digits = results(clip_moderate=[3], lite0_moderate=[9], random=[2])
    photographs = results(lite0_moderate=[1], random=[2])
    table = claims.changes({"digits": digits, "photographs": photographs, "none": results(full=[1])}, [claim])
    assert table.source.tolist() == [PAPER, "digits", "photographs"]
    assert table.change.tolist() == pytest.approx([7.78 / 8.12 - 1, 0.5, -0.5])
    assert table.low.isna().all()


def test_a_control_has_no_number_of_the_paper():
    control = Claim("a control", "", "random", "early-stopping")
    frame = results(random=[1, 2], early_stopping=[1, 1])
    assert claims.changes({"here": frame}, [control]).source.tolist() == ["here"]
    assert claims.shown(claims.changes({"here": frame}, [control])).loc["a control", PAPER].tolist() == ["–"]


def test_every_claim_has_rows_and_a_number_of_the_paper():
    assert len({claim.said for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert {claim.row, claim.other, *claim.instead.values()} <= set(grid.ROWS)
        for ratio in claim.ratios:
            assert bool(claims._published(claim, ratio)) == bool(claim.place)
    (mdt,) = (claim for claim in CLAIMS if claim.other == "mdt-full")
    assert claims._published(mdt, 0.2)[0] == pytest.approx(13.94 / 17.11 - 1)
    assert paper.by_ratio(paper.TABLE_1, "full") == {1.0: 3.66}


def test_the_words_say_which_intervals_are_on_the_paper_s_side():
    few = {"moderate_reweighted": [1.0, 1.1, 1.0, 1.1, 1.05], "random": [2, 2, 2, 2, 2]}
    same = claims.changes({"here": results(**few)}, [RANDOM])
    assert claims.agreement_in_words(same) == (
        "**here:** of 1 comparison of the paper with 5 seeds, 1 have an interval without zero: 1 on the paper's "
        "side (against random, 10 %) and 0 on the other."
    )
    few["random"] = [0.5] * 5
    told = claims.agreement_in_words(claims.changes({"here": results(**few)}, [RANDOM]))
    assert "0 on the paper's side and 1 on the other (against random, 10 %)" in told
    few["random"] = [0.5, 2, 0.5, 2, 1]
    told = claims.agreement_in_words(claims.changes({"here": results(**few)}, [RANDOM]))
    assert "0 have an interval without zero" in told
    four = {name: values[:4] for name, values in few.items()}
    told = claims.agreement_in_words(claims.changes({"here": results(**four)}, [RANDOM]))
    assert "of 0 comparisons" in told
    assert claims.agreement_in_words(claims.changes({}, [RANDOM])) == "No results yet."


def test_the_table_and_the_picture_show_each_source():
    frame = results(moderate_reweighted=[1, 4, 4], random=[2, 2, 2], full=[1, 2])
    table = claims.changes({"here": frame}, [RANDOM, FULL])
    shown = claims.shown(table)
    assert list(shown) == [PAPER, "here"]
    assert shown.loc[("against random", "Table I", "10 %")].tolist() == ["-17 %", "+26 % (-83 to 820)"]
    assert shown["here"].iloc[1] == "+41 % (-98 to 11461, 2 seeds)"
    (axes,) = drawn(figures.changes(table), 1)
    assert len(axes.get_yticklabels()) == 2
    points = [line.get_xdata().tolist() for line in axes.lines[:2]]
    assert points[0] == pytest.approx([6.71 / 8.12, 6.71 / 3.66])
    assert points[1] == pytest.approx([2 ** (1 / 3), 2**0.5])
