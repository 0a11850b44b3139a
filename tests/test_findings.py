import numpy as np
import pandas as pd
import pytest

from dedt_lib.book import findings, tables


def results(**fid):
    """Cells of rows: a list is one number per seed at 10 %, a dict has such a list for each ratio."""
    cells = [
        (row.replace("_", "-"), ratio, seed, value)
        for row, given in fid.items()
        for ratio, values in (given if isinstance(given, dict) else {0.1: given}).items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(cells, columns=["row", "ratio", "seed", "fid"])


THREE = {row: (value, 0, 0, 0) for row, value in (("random", 1), ("moderate", 2), ("gaussian", 3))}
"""Numbers as a paper has them: of three rows, one for each ratio."""


# ---- one row against another -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "moderate, verdict",
    [
        ([1.0, 1.0], "lower"),
        ([4.0, 4.0], "higher"),
        ([1.0, 4.0], "undecided"),
        ([2.0, 3.0], "undecided"),
        ([1.0], "undecided"),  # one seed decides nothing, and the other row's second is left out
    ],
)
def test_a_comparison_is_decided_when_every_seed_agrees(moderate, verdict):
    frame = results(random=[2.0, 3.0], moderate=moderate)
    compared = findings.compare(frame, "moderate", "random").loc[0.1]
    assert compared["verdict"] == verdict and compared["seeds"] == len(moderate)
    assert compared["difference"] == pytest.approx(np.mean(moderate) - [0, 2, 2.5][len(moderate)])
    assert verdict in findings.in_words(frame, "moderate", "random")


def test_rows_without_results_are_nothing_to_compare():
    frame = results(random=[2.0, 3.0])
    assert len(findings.compare(frame, "moderate", "random")) == 0
    assert len(findings.compare(results(), "moderate", "random")) == 0
    assert findings.in_words(frame, "moderate", "random").endswith("Uniform random: no results yet.")
    assert findings.answer(frame, "moderate", "random") == "No results yet."
    assert findings.say(frame, ("moderate", "random")).data == "No results yet."


@pytest.mark.parametrize("value, words", [("fid", "lower (better)"), ("recall", "lower (worse)")])
def test_lower_is_not_better_for_every_value(value, words):
    frame = results(random=[2.0, 3.0], moderate=[1.0, 2.0]).rename(columns={"fid": value})
    assert words in findings.in_words(frame, "moderate", "random", value)


@pytest.mark.parametrize(
    "ten, twenty, head",
    [
        ([1, 1], [1, 1], "Yes:"),
        ([3, 3], [3, 3], "No:"),
        ([3, 3], [1, 3], "No:"),
        ([1, 3], [3, 1], "Open:"),
        ([1, 1], [1, 3], "At some ratios, and nowhere is it worse:"),
        ([1, 1], [3, 3], "At some ratios, and at others it is worse:"),
    ],
)
def test_an_answer_is_yes_only_if_every_ratio_is(ten, twenty, head):
    frame = results(random={0.1: [2, 2], 0.2: [2, 2]}, moderate={0.1: ten, 0.2: twenty})
    said = findings.answer(frame, "moderate", "random")
    assert said.startswith(head)
    assert f"{np.mean(ten) - 2:+.2f}, {np.mean(twenty) - 2:+.2f} (below zero is better)" in said


def test_all_the_data_can_be_laid_beside_every_ratio():
    frame = results(random={0.1: [5, 6], 0.2: [3, 4]}, full={1.0: [1, 2]})
    beside = findings.at_every_ratio(frame, "full")
    compared = findings.compare(beside, "random", "full")
    assert compared.difference.to_dict() == {0.1: 4, 0.2: 2} and set(compared.verdict) == {"higher"}
    both = findings.compare_all(beside, ["random", "moderate"], "full")
    assert list(both.index) == [("random", 0.1), ("random", 0.2)]
    assert len(findings.compare_all(beside, ["moderate"], "full")) == 0


CONTROL = {"control": "early-stopping", "full": "full"}


@pytest.mark.parametrize(
    "coreset, stopped, words",
    [
        ([7, 7], [8, 8], "no gain to explain"),
        ([5, 5], [4, 7], "the control leaves open why"),
        ([4, 4], [3, 3], "fewer steps are enough to explain it"),
        ([2, 2], [3, 3], "there fewer images help by themselves"),
        ([2, 4], [3, 3], "fewer steps are enough to explain it"),
        ([2, 2], [8, 8], "there fewer images help by themselves"),
    ],
)
def test_equal_steps_tell_steps_from_images(coreset, stopped, words):
    frame = results(moderate=coreset, early_stopping=stopped, full={1.0: [6, 6]})
    assert words in findings.steps_or_images(frame, "moderate", **CONTROL)


def test_without_the_control_nothing_is_explained():
    frame = results(moderate=[1, 1], full={1.0: [6, 6]})
    assert findings.steps_or_images(frame, "moderate", **CONTROL).endswith("no results yet.")


@pytest.mark.parametrize(
    "coreset, words",
    [
        ([1, 1], "Better than all the data in every seed: Uniform random at 10 %."),
        ([1, 3], "No coreset is better than all the data in every seed; some are in some seeds."),
        ([3, 3], "No: no coreset is better than all the data, in any seed."),
        ([1], "(That is one seed, which says little.)"),
        ([], "There are no results yet."),
    ],
)
def test_a_part_is_better_than_the_whole_if_every_seed_says_so(coreset, words):
    frame = results(random=coreset, full={1.0: [2, 2]})
    assert words in findings.part_against_whole(frame, ["random", "moderate"], "full")


@pytest.mark.parametrize(
    "guided, unguided, words",
    [
        ([1, 1], [1, 3], "So it takes guidance for less to beat all."),
        ([3, 3], [1, 1], "So guidance hides that less beats all."),
        ([1, 1], [1, 1], "So less beats all with guidance and without."),
        ([1, 3], [3, 3], "So less beats all neither with guidance nor without."),
        ([1, 1], [], "No results yet."),
    ],
)
def test_guidance_is_told_from_data(guided, unguided, words):
    frame = results(
        sd_random=guided,
        sd_random_unguided=unguided,
        sd_full={1.0: [2, 2]},
        sd_full_unguided={1.0: [2, 2]},
    )
    assert findings.guidance_in_words(frame, ["sd-random"], "sd-full").endswith(words)


# ---- the order of the rows -------------------------------------------------------------------------


def test_the_order_of_rows_is_compared_pair_by_pair():
    same = findings.same_order(results(random=[1.0], moderate=[2.0], gaussian=[3.0]), THREE).loc["10 %"]
    assert same["same"] and same["agree"] == 1
    other = findings.same_order(results(random=[1.5], moderate=[1.0], gaussian=[3.0]), THREE).loc["10 %"]
    assert not other["same"] and other["agree"] == pytest.approx(2 / 3)
    assert other["ours"] == ["moderate", "random", "gaussian"]


def test_rows_at_or_below_zero_have_a_place_in_the_order_and_missing_ones_have_none():
    frame = results(random=[-0.1], moderate=[0.0], gaussian=[float("nan")])
    order = findings.same_order(frame, THREE).loc["10 %"]
    assert order["ours"] == ["random", "moderate"] and order["same"]


def test_the_order_in_words():
    said = findings.order_in_words(results(random=[1.5], moderate=[1.0], gaussian=[3.0]), THREE)
    assert said.startswith("No. The rows come in the paper's order at 0 of 1 ratios.")
    assert "67 % at 10 %" in said and "ResNet-18, Moderate-DS at 10 % (paper: Uniform random)" in said
    for ten, twenty, head in ((0, 1, "Yes."), (3, 1, "Partly."), (3, 3, "No.")):
        frame = results(random={0.1: [2], 0.2: [2]}, moderate={0.1: [ten], 0.2: [twenty]})
        published = {"random": (2, 2, 0, 0), "moderate": (1, 1, 0, 0)}
        assert findings.order_in_words(frame, published).startswith(head)
    said = findings.order_in_words(frame, published)
    assert "The lowest: Uniform random at 10 %, 20 % (paper: ResNet-18, Moderate-DS)." in said
    assert findings.order_in_words(results(random=[1.5]), published) == "No results yet."


# ---- class by class --------------------------------------------------------------------------------


def class_results(**rows):
    """Cells at 10 % with class-wise FID and class weights, one pair of lists per seed."""
    cells = [
        {
            "row": row.replace("_", "-"),
            "ratio": 0.1,
            "seed": seed,
            "result": {"class_names": list("abcd"), "classwise": fid, "class_weights": weights},
        }
        for row, given in rows.items()
        for seed, (fid, weights) in given.items()
    ]
    return pd.DataFrame(cells, columns=["row", "ratio", "seed", "result"])


def paired(before, after, weights):
    """One seed, with class-wise FID without and with weights."""
    return class_results(moderate={0: (before, None)}, moderate_reweighted={0: (after, weights)})


PAIRED = class_results(
    moderate={0: ([1, 2, 3, 4], None), 1: ([1, 2, 3, 4], None), 2: ([9, 9, 9, 9], None)},
    moderate_reweighted={
        1: ([0, 3, 3, 2], [0.4, 0.3, 0.2, 0.1]),
        0: ([0, 3, 2, 6], [0.4, 0.3, 0.2, 0.1]),
    },
)


def test_a_class_without_a_value_is_passed_over():
    weights = [0.4, 0.3, 0.2, 0.1]
    classes = findings.by_class(paired([1, 2, None, 4], [0, 3, None, 2], weights), 0.1)
    said = findings.gains_in_words(classes)
    assert "in every seed: a, d." in said and "higher one in every seed: b." in said
    assert "class d gains most (-2.00) and class b least (+1.00)" in said
    heavy, easy, rank = findings.heavy_and_easy(classes)
    assert heavy.tolist() == [True, True, False, False] and easy.tolist() == [True, False, False, False]
    assert rank == pytest.approx(-1) and "of the 2 classes" in findings.heaviness_in_words(classes)
    assert findings.by_class(paired([None] * 4, [None] * 4, weights), 0.1) is None


def test_classes_are_paired_by_seed():
    classes = findings.by_class(PAIRED, 0.1)
    assert classes.seeds.tolist() == [0, 1] and classes.names.tolist() == list("abcd")
    assert classes.after.tolist() == [[0, 3, 2, 6], [0, 3, 3, 2]]
    assert classes.before.shape == classes.weights.shape == (2, 4)
    assert findings.by_class(PAIRED, 0.2) is None


def test_gains_are_those_of_every_seed():
    said = findings.gains_in_words(findings.by_class(PAIRED, 0.1))
    assert "Over 2 seeds, these classes have a lower FID in every seed: a." in said
    assert "A higher one in every seed: b." in said
    assert "class a gains most (-1.00) and class b least (+1.00)" in said


@pytest.mark.parametrize(
    "weights, rank, words",
    [
        ([0.4, 0.3, 0.2, 0.1], -1, "Yes: of the 2 classes that are heavier than average (a, b), 2 have"),
        ([0.1, 0.2, 0.3, 0.4], 1, "No, rather the hard ones: of the 2 classes that are heavier"),
        ([0.3, 0.2, 0.2, 0.3], 0, "Neither they nor the hard ones"),
    ],
)
def test_heavy_classes_are_easy_or_hard(weights, rank, words):
    classes = findings.by_class(paired([1, 2, 3, 4], [1, 1, 1, 1], weights), 0.1)
    heavy, easy, found = findings.heavy_and_easy(classes)
    assert found == pytest.approx(rank) and easy.tolist() == [True, True, False, False]
    assert heavy.tolist() == [weight > 0.25 for weight in weights]
    assert findings.heaviness_in_words(classes).startswith(words)


@pytest.mark.parametrize(
    "shares, words",
    [
        ([60, 70], "60 to 70 % are clipped. In every seed more than half"),
        ([17, 17.2], "margins 17 % are clipped. In no seed"),
        ([40, 60], "The seeds do not agree"),
        ([], "No results yet."),
    ],
)
def test_a_majority_of_margins_is_more_than_half(shares, words):
    assert words in findings.clipped_in_words(shares)


def test_proxies_are_read_from_the_reweighted_cells():
    dro = {"effective_classes": 3.0, "clipped": 0.17, "mean_excess": 0.5}
    results = [
        {"row": row, "recipe": {"ratio": 0.2, "seed": 1}, "class_names": list("ab"), **more}
        for row, more in (("random", {}), ("moderate-reweighted", {"class_weights": [0.4, 0.6], "dro": dro}))
    ]
    table = findings.proxies(pd.DataFrame({"result": results}))
    assert list(table.index) == [("moderate-reweighted", 0.2, 1)]
    assert table.iloc[0].tolist() == pytest.approx([3.0, 0.8, 1.2, 17.0, 0.5])
    none = findings.proxies(pd.DataFrame({"result": results[:1]}))
    assert len(none) == 0 and none.index.names == ["row", "ratio", "seed"]


# ---- costs, copies and the making ------------------------------------------------------------------


def test_slower_is_below_one_run_on_all_the_data():
    frame = results(full={1.0: [1]}, moderate={0.1: [1], 0.4: [1]}, random={0.1: [1]})
    own = {"full": 60.0, "moderate": 6.0, "random": 6.0}
    units = ("images", "evaluations", "seconds", "cpu_seconds")
    frame = frame.assign(**{unit: frame.row.map(own) for unit in units})
    frame = frame.assign(**{f"whole_{unit}": frame.row.map({**own, "moderate": 61.0}) for unit in units})
    slower, faster = findings.slower_and_faster(frame, ["moderate", "random", "gaussian"])
    assert slower == ["ResNet-18, Moderate-DS at 10 %, 40 %"] and faster == ["Uniform random at 10 %"]


@pytest.mark.parametrize("share, head", [(0.004, "No."), (0.03, "A little."), (0.2, "Yes.")])
def test_copies_are_told_by_the_row_with_the_most(share, head):
    frame = results(random=[1, 1], full={1.0: [1]}).assign(copies=[0, 2 * share, 0.001])
    said = findings.copies_in_words(frame)
    assert said.startswith(head) and f"{100 * share:.1f} % of the samples (Uniform random, 10 %)" in said
    assert findings.copies_in_words(frame.assign(copies=None)).startswith("It was not counted")


def test_a_page_says_how_its_results_were_made():
    cells = tables.cells("figure2", "smoke")

    def result(date):
        provenance = {"date": date, "machine": "x86_64", "versions": {"torch": "9.9"}}
        return {"provenance": provenance, "floor": {"fid": 0.5}}

    row, ratio, seed = cells[0]
    frame = pd.DataFrame({"row": [row], "ratio": [ratio], "seed": [seed], "result": [result("2001-02-03")]})
    made = findings.made(frame, "figure2", "smoke")
    assert made["missing"] == f" ({len(cells) - 1} more are not there yet)" and made["cells"] == 1
    assert (made["dates"], made["torch"], made["floor"]) == ("2001-02-03", "9.9", 0.5)
    assert findings.made(frame[:0], "figure2", "smoke")["dates"] == "–"
