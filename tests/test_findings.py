import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from dedt_lib import evaluation
from dedt_lib.book import comparisons, findings, grid
from dedt_lib.config.profile import load_profile
from dedt_lib.errors import DedtError


def results(**fid):
    """A frame of cells from the FID of each row: a list over the seeds at 10 %, or ratio -> such a list."""
    cells = [
        (row.replace("_", "-"), ratio, seed, value)
        for row, given in fid.items()
        for ratio, values in (given if isinstance(given, dict) else {0.1: given}).items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(cells, columns=["row", "ratio", "seed", "fid"])


THREE = {row: (value, 0, 0, 0) for row, value in (("random", 1), ("moderate", 2), ("gaussian", 3))}
"""A table like those of ``book.paper``: row -> number at each ratio."""


FIVE = [-0.2, 0.1, 0.0, 0.3, -0.1]
"""Deviations of five seeds from the mean of a row."""


def around(mean, seeds=5, by=1.0):
    """A value for each seed around ``mean``; ``by`` scales the deviations."""
    return [mean + by * shift for shift in FIVE[:seeds]]


# ---- one row against another -----------------------------------------------------------------------


PAIR = ("moderate", "random")


@pytest.mark.parametrize(
    "moderate, verdict",
    [
        (around(1.0, by=0.9), "better"),
        (around(3.0, by=0.9), "worse"),
        ([1.5, 2.9, 1.4, 2.8, 2.0], "inconclusive"),
        (around(1.0, seeds=4, by=0.9), "inconclusive"),  # clear, but there are too few seeds
        (around(1.0, seeds=1), "inconclusive"),
    ],
)
def test_a_verdict_takes_five_seeds_and_a_small_p(moderate, verdict):
    page = findings.Page(results(random=around(2.0), moderate=moderate), [PAIR])
    compared = page.compare(*PAIR).loc[0.1]
    assert compared.verdict == verdict and compared.seeds == len(moderate)
    differences = np.array(moderate) - around(2.0)[: len(moderate)]
    assert compared.difference == pytest.approx(differences.mean())
    if len(moderate) > 1:
        expected = evaluation.paired_interval(differences, 0 * differences)
        assert (compared.difference, compared.low, compared.high) == pytest.approx(expected)
        assert compared.p == pytest.approx(ttest_1samp(differences, 0).pvalue, rel=1e-6)
    else:
        assert np.isnan([compared.low, compared.high, compared.p]).all()
    assert page.answer(*PAIR).endswith(f"), {verdict}.") == (verdict in ("better", "worse"))


def test_all_comparisons_of_a_page_are_corrected_together():
    rng = np.random.default_rng(0)
    rows = ("moderate", "gaussian", "clip-moderate", "ddae-moderate")
    frame = results(random=rng.normal(2, 0.1, 5), **{row: rng.normal(1.8, 0.1, 5) for row in rows})
    alone = findings.Page(frame, [("moderate", "random")]).compare(*PAIR)
    page = findings.Page(frame, [(row, "random") for row in rows])
    assert page.table.p_holm.tolist() == pytest.approx(list(evaluation.holm(page.table.p)))
    together = page.compare(*PAIR)
    assert alone.p_holm[0.1] == alone.p[0.1] == together.p[0.1] < together.p_holm[0.1]
    twice = findings.Page(frame, [PAIR, PAIR, (*PAIR, "fid")])
    assert len(twice.table) == 1


def test_a_verdict_that_is_there_stays_when_the_other_cells_come():
    moderate = {0.1: around(1.0), 0.2: [1.9, 2.2, 2.0, 2.1]}
    frame = results(random={0.1: [2] * 5, 0.2: [2] * 4}, moderate=moderate)
    table = findings.Page(frame, [PAIR]).compare(*PAIR)
    assert table.p_holm[0.1] == 2 * table.p[0.1] and np.isnan(table.p_holm[0.2])
    planned = findings.Page(frame, [PAIR, ("random", "full")], profile="digits")
    assert planned.named == 6  # two pairs at three ratios
    assert planned.compare(*PAIR).p_holm[0.1] == pytest.approx(6 * table.p[0.1])
    assert "for the 6 comparisons named here, of which 1 has 5 seeds so far" in planned.summary()


def test_comparisons_that_were_chosen_with_the_results_in_view_get_no_verdict():
    frame = results(random=around(2.0), moderate=around(1.0, by=0.9))
    page = findings.Page(frame, [PAIR], added=True)
    assert page.compare(*PAIR).verdict[0.1] == "inconclusive" and "better" not in page.shown().iloc[0, 0]
    assert page.answer(*PAIR).startswith("**No verdict (chosen after the results).**")
    assert page.summary().endswith("added after the results had been read, so they get no verdict.")


def test_a_page_tells_only_what_it_named():
    page = findings.Page(results(random=[1, 2], moderate=[1, 2]), [PAIR])
    for other in (("random", "moderate"), ("moderate", "full"), (*PAIR, "cmmd")):
        with pytest.raises(DedtError, match="Pass the pair when you create the Page"):
            page.compare(*other)
    with pytest.raises(DedtError, match=r"Unknown row\(s\) modrate\. Choose from"):
        findings.Page(results(), [("modrate", "random")])


def test_a_sentence_has_difference_interval_and_seeds():
    moderate = {0.1: around(3), 0.2: [1, 2, 3], 0.3: [2.5]}
    frame = results(random={0.1: [2] * 5, 0.2: [2] * 3, 0.3: [2]}, moderate=moderate)
    page = findings.Page(frame, [PAIR])
    assert page.answer(*PAIR) == (
        "**At 10 %: no.** FID, *ResNet-18, Moderate-DS* minus *Uniform random* (5 seeds), "
        "at 10 %: +1.02 (0.78 to 1.26), worse; 20 %: +0.00 (-2.48 to 2.48, 3 seeds); 30 %: +0.50 (1 seed)."
    )
    shown = page.shown()
    assert list(shown.index) == [("ResNet-18, Moderate-DS", "minus Uniform random")]
    assert shown.iloc[0].to_dict() == {
        "10 %": "+1.02 (0.78 to 1.26), worse",
        "20 %": "+0.00 (-2.48 to 2.48, 3 seeds)",
        "30 %": "+0.50 (1 seed)",
    }
    frame = frame.rename(columns={"fid": "cmmd"}).assign(fid=1.0)
    page = findings.Page(frame, [PAIR, (*PAIR, "cmmd")])
    of_cmmd = "CMMD, *ResNet-18, Moderate-DS* minus *Uniform random* (5 seeds), at 10 %: +1.0200 (0.7"
    assert of_cmmd in page.answer(*PAIR, "cmmd")
    assert page.shown(value="cmmd")["10 %"].iloc[0].startswith("+1.0200 (0.7")
    assert page.shown(PAIR)["20 %"].iloc[0] == "+0.00 (0.00 to 0.00, 3 seeds)"


def test_rows_without_results_are_nothing_to_compare():
    for frame in (results(random=[2.0, 3.0]), results()):
        page = findings.Page(frame, [PAIR])
        assert len(page.compare(*PAIR)) == 0 == len(page.table)
        assert page.answer(*PAIR) == page.summary() == "No results yet."
        assert page.shown().empty


@pytest.mark.parametrize("value, verdict", [("fid", "better"), ("recall", "worse")])
def test_lower_is_not_better_for_every_value(value, verdict):
    frame = results(random=around(3), moderate=around(1, by=0.9)).rename(columns={"fid": value})
    page = findings.Page(frame, [PAIR], value)
    assert page.answer(*PAIR).endswith(f"), {verdict}.")
    assert ("recall (above zero)" in page.summary()) == (value == "recall")


@pytest.mark.parametrize(
    "ten, twenty, head",
    [
        (1, 1, "**Yes.**"),
        (3, 3, "**No.**"),
        (3, 2, "**No at some ratios, inconclusive at others.**"),
        (2, 2, "**Inconclusive.**"),
        (1, 2, "**Yes at some ratios, inconclusive at others.**"),
        (1, 3, "**Better at some ratios, worse at others.**"),
    ],
)
def test_an_answer_is_yes_only_if_every_ratio_is(ten, twenty, head):
    frame = results(random={0.1: [2] * 5, 0.2: [2] * 5}, moderate={0.1: around(ten), 0.2: around(twenty)})
    page = findings.Page(frame, [PAIR])
    assert page.answer(*PAIR).startswith(head)
    few = findings.Page(frame[frame.seed < 3], [PAIR]).answer(*PAIR)
    assert few.startswith("**Too few seeds for a verdict.**") and "3 seeds)" in few


def test_a_page_says_what_its_seeds_could_have_shown():
    frame = results(random={0.1: [2] * 5, 0.2: [2] * 5}, moderate={0.1: around(1), 0.2: around(2)})
    said = findings.Page(frame, [PAIR]).summary()
    least = evaluation.detectable_difference(np.std(FIVE, ddof=1), 5, level=0.05 / 2)
    assert "for the 2 comparisons named here. A comparison with neither" in said
    assert said.endswith(f"5 seeds detect with a power of 80 % a true difference of {least:.2f} in FID.")
    spread = np.where((frame.row == "moderate") & (frame.ratio == 0.2), 3, 1)
    said = findings.Page(frame.assign(fid=spread * frame.fid), [PAIR]).summary()
    assert (
        f"{2 * least:.2f} in FID (from {least:.2f} where the seeds vary least to {3 * least:.2f} where"
        in said
    )
    few = findings.Page(frame[frame.seed < 3], [PAIR]).summary()
    assert few.endswith("A verdict needs 5 seeds and there are 3, so this page gives none.")
    one = findings.Page(frame[frame.seed < 1], [PAIR]).summary()
    assert "There is one seed, so there are no intervals and no verdicts" in one


def test_all_the_data_is_laid_beside_every_ratio():
    frame = results(random={0.1: [5, 6], 0.2: [3, 4]}, full={1.0: [1, 2, 9]})
    page = findings.Page(frame, [("random", "full"), ("moderate", "full"), ("full", "random")])
    assert page.compare("random", "full").difference.to_dict() == {0.1: 4, 0.2: 2}
    assert page.compare("full", "random").difference.to_dict() == {0.1: -4, 0.2: -2}


# ---- the order of the rows -------------------------------------------------------------------------


def test_the_order_of_rows_is_kendalls_tau():
    same = findings.same_order(results(random=[1.0], moderate=[2.0], gaussian=[3.0]), THREE).loc["10 %"]
    assert same["tau"] == 1 and same["p"] == pytest.approx(2 / 6)  # this order and its reverse, of six
    other = findings.same_order(results(random=[1.5], moderate=[1.0], gaussian=[3.0]), THREE).loc["10 %"]
    assert other["tau"] == pytest.approx(1 / 3) and other["p"] == 1
    assert other["ours"] == ["moderate", "random", "gaussian"]


def test_rows_are_put_in_order_by_the_seeds_that_all_have():
    frame = results(random=[1.0, 9.0], moderate=[2.0], gaussian=[3.0, 0.0, 0.0])
    order = findings.same_order(frame, THREE).loc["10 %"]
    assert order["ours"] == ["random", "moderate", "gaussian"] and order["seeds"] == 1


def test_rows_at_or_below_zero_have_a_place_in_the_order_and_missing_ones_have_none():
    frame = results(random=[-0.1], moderate=[0.0], gaussian=[float("nan")])
    for value in ("fid", "cmmd"):
        order = findings.same_order(frame.rename(columns={"fid": value}), THREE, value).loc["10 %"]
        assert order["ours"] == ["random", "moderate"] and order["tau"] == 1


def test_the_order_in_words():
    rows = ["random", "moderate", "gaussian", "moderate_reweighted", "clip_moderate", "ddae_moderate"]
    published = {row.replace("_", "-"): (k, k, 0, 0) for k, row in enumerate(rows)}
    for ten, twenty, head in (
        (1, 1, "**Yes.**"),
        (1, None, "**Yes at 10 %.**"),
        (-1, -1, "**No, the order is reversed at 10 %, 20 %.**"),
        (1, -1, "**Yes at 10 %; No, the order is reversed at 20 %.**"),
        (None, None, "**Inconclusive.**"),
    ):
        places = [range(6) if up is None else np.arange(6) * up for up in (ten, twenty)]
        mixed = [2, 0, 4, 1, 5, 3]
        values = [mixed if up is None else list(own) for up, own in zip((ten, twenty), places)]
        frame = results(**{row: {0.1: [a] * 5, 0.2: [b] * 5} for row, a, b in zip(rows, *values)})
        said = findings.order_in_words(frame, published)
        assert said.startswith(head)
    assert "+0.33 at 10 % (+0.33 to +0.33; 6 rows, 5 seeds, p = 0.94)" in said
    assert "Holm's correction for all orders of this page; it takes the means as exact" in said
    assert findings.order_in_words(frame[frame.seed < 4], published).startswith("**Too few seeds")
    assert findings.order_in_words(results(random=[1.5]), THREE) == "No results yet."
    alone = results(**{row: {0.1: [a] * 5, 0.2: [k]} for k, (row, a) in enumerate(zip(rows, mixed))})
    assert findings.order_in_words(alone, published).startswith("**Inconclusive.**")  # 20 % has one seed
    few = {row: published[row] for row in ("random", "moderate", "gaussian", "clip-moderate")}
    said = findings.order_in_words(frame, few)  # no order of four has p < 0.05
    assert "; 4 rows, 5 seeds)" in said and "Holm" not in said


SIX = ("random", "moderate", "gaussian", "moderate-reweighted", "clip-moderate", "ddae-moderate")


def six_rows(seeds=5):
    """Six rows in the order of their table at 10 %, by FID and by CMMD; and that table."""
    frame = results(**{row.replace("-", "_"): [float(k)] * seeds for k, row in enumerate(SIX)})
    return frame.assign(cmmd=frame.fid), {row: (k, 0, 0, 0) for k, row in enumerate(SIX)}


def test_all_orders_of_a_page_are_corrected_together():
    frame, published = six_rows()
    both = {"fid": published, "cmmd": published}
    alone = findings.same_order(frame, published).loc["10 %"]
    assert alone["p_holm"] == alone["p"] < 0.05
    for value in both:
        together = findings.same_order(frame, published, value, family=both)
        assert list(together.index) == ["10 %"] and together.p_holm["10 %"] == pytest.approx(2 * alone["p"])


def test_an_order_that_was_chosen_with_the_results_in_view_gets_no_verdict():
    frame, published = six_rows()
    assert findings.order_in_words(frame, published).startswith("**Yes.**")
    said = findings.order_in_words(frame, published, added=True)
    assert (
        said.startswith("**No verdict (chosen after the results).** Kendall's tau") and "p = 0.0028" in said
    )


def test_an_order_tells_what_one_seed_changes():
    frame, published = six_rows()
    one = (frame.seed == 0) & (frame.row == "random")  # its mean is then 1.4, above that of the next row
    order = findings.same_order(frame.assign(fid=frame.fid.where(~one, 7.0)), published).loc["10 %"]
    assert order["high"] == pytest.approx(1) and order["tau"] == order["low"] == pytest.approx(13 / 15)
    said = findings.order_in_words(six_rows(1)[0], published)
    assert " at 10 % (6 rows, 1 seed)" in said and "left out" not in said


# ---- class by class --------------------------------------------------------------------------------


def class_results(plain, reweighted):
    """Cells at 10 %; both arguments map a seed to (class-wise FID, class weights)."""
    cells = [
        (row, 0.1, seed, {"class_names": list("abcd"), "classwise": fid, "class_weights": weights})
        for row, given in zip(("moderate", "moderate-reweighted"), (plain, reweighted))
        for seed, (fid, weights) in given.items()
    ]
    return pd.DataFrame(cells, columns=["row", "ratio", "seed", "result"])


WEIGHTS = [0.4, 0.3, 0.2, 0.1]
PAIRED = class_results(
    {0: ([1, 2, 3, 4], None), 1: ([1, 2, 3, 4], None), 2: ([9, 9, 9, 9], None)},
    {1: ([0, 3, 3, 2], WEIGHTS), 0: ([0, 3, 2, 6], WEIGHTS)},
)


def test_rounding_keeps_the_sign_of_a_difference():
    assert [comparisons.signed(value, 2) for value in (-0.0029, 0.04, -1e-7, 0.0)] == [
        "-0.003",
        "0.04",
        "0.00",
        "0.00",
    ]
    assert comparisons.signed(0.0004, 2, "+") == "+0.0004" and comparisons.signed(float("nan"), 2) == "nan"


def test_a_class_without_a_value_is_passed_over():
    one_seed = class_results({0: ([1, 2, None, 4], None)}, {0: ([0, 3, None, 2], WEIGHTS)})
    classes = findings.by_class(one_seed, 0.1)
    assert findings.class_gains(classes).difference.to_dict() == {"a": -1, "b": 1, "d": -2}
    heavy, easy, rank, p = findings.heavy_and_easy(classes)
    assert heavy.tolist() == [True, True, False, False] and easy.tolist() == [True, False, False, False]
    assert rank == pytest.approx(-1) and p == pytest.approx(2 / 6)
    assert "over 4 classes" in findings.heaviness_in_words(classes)
    without = class_results({0: ([None] * 4, None)}, {0: ([None] * 4, WEIGHTS)})
    assert findings.by_class(without, 0.1) is None


def test_classes_are_paired_by_seed():
    classes = findings.by_class(PAIRED, 0.1)
    assert classes.seeds.tolist() == [0, 1] and classes.names.tolist() == list("abcd")
    assert classes.after.tolist() == [[0, 3, 2, 6], [0, 3, 3, 2]]
    assert classes.before.shape == classes.weights.shape == (2, 4)
    assert findings.by_class(PAIRED, 0.2) is None


def test_classes_are_read_by_kid_as_well():
    kid = [[2 * value for value in result["classwise"]] for result in PAIRED.result]
    both = [{**result, "kid_classwise": values} for result, values in zip(PAIRED.result, kid)]
    frame = PAIRED.assign(result=both)
    assert findings.by_class(frame, 0.1, "kid_classwise").after.tolist() == [[0, 6, 4, 12], [0, 6, 6, 4]]
    assert findings.by_class(PAIRED, 0.1, "kid_classwise") is None


@pytest.mark.parametrize("agree", [True, False])
@pytest.mark.parametrize(
    ("gain", "told"), [(1.0, "is better than"), (-1.0, "is worse than"), (0.0, "cannot be distinguished")]
)
def test_weights_carry_information_if_seeds_agree_and_shuffling_harms(agree, gain, told):
    rng = np.random.default_rng(0)
    own, shuffled = "moderate-reweighted", "moderate-reweighted-shuffled"
    cells = [
        (row, 0.1, seed, fid, {"class_weights": np.roll(WEIGHTS, 0 if agree else seed).tolist()})
        for seed, noise in enumerate(rng.normal(0, 0.02, 5))
        for row, fid in ((own, 3 - gain + noise), (shuffled, 3.0))
    ]
    frame = pd.DataFrame(cells, columns=["row", "ratio", "seed", "fid", "result"])
    page = findings.Page(frame, [(own, shuffled)])
    said = findings.information_in_words(frame, page, 0.1)
    head = "The seeds agree on the order of the classes more" if agree else "No agreement of the seeds"
    assert said.startswith(head) and told in said
    assert "needs 5 seeds" in findings.information_in_words(frame, page, 0.2)
    bound = max(0.0, -page.compare(own, shuffled).low[0.1])
    assert said.endswith(f" A gain of more than {bound:.2f} in FID lies outside the 95 % interval.")
    halves = [{**result, "fids": [x, x / 2, x / 4]} for result, x in zip(frame.result, frame.fid)]
    said = findings.information_in_words(frame.assign(result=halves), page, 0.1)
    assert f"first of 3 FID networks, which the tables use, a gain of more than {bound:.2f} in" in said
    assert said.endswith(f"of the others, a gain of more than {bound / 2:.2f} and {bound / 4:.2f}.")


def made_up(before, after, weights=None, K=10):
    """Classes from class-wise FIDs float [S, K], with one row of weights for all seeds."""
    weights = np.tile(np.arange(1, K + 1) / 55 if weights is None else weights, (len(before), 1))
    names = np.array(list("abcdefghij"[:K]))
    return findings.Classes(names, np.array(before), np.array(after), weights, np.arange(len(before)))


def test_gains_of_classes_are_corrected_together():
    rng = np.random.default_rng(0)
    before = rng.normal(5, 0.1, (5, 10))
    gain = np.array([2, -2] + [0] * 8)
    classes = made_up(before, before - gain + rng.normal(0, 0.05, (5, 10)))
    gains = findings.class_gains(classes)
    assert gains.p_holm.tolist() == pytest.approx(list(evaluation.holm(gains.p)))
    said = findings.gains_in_words(classes)
    assert said.startswith("**Of 10 classes, reweighting improves 1 (a)** and harms 1 (b) after Holm's")
    below = (gains.difference < 0).sum()
    assert f"on average below zero for {below} of the classes. It is lowest for class a, -2.0" in said
    assert "5 seeds), better; it is highest for class b, +1.99 (" in said
    few = findings.gains_in_words(findings.by_class(PAIRED, 0.1))
    assert few.startswith(
        "**Too few seeds for a verdict** (2 seeds). The difference in class-wise FID, with minus"
    )
    assert "for class a, -1.00 (-1.00 to" in few


CORRELATION = "The rank correlation between class weight and class-wise FID before reweighting is"


@pytest.mark.parametrize(
    "difficulty, words",
    [
        (np.arange(10), "**No, the heavier classes are the hard ones.** The rank correlation"),
        (-np.arange(10), f"**Yes.** {CORRELATION} -1.00"),
        ([2, 0, 1, 9, 3, 8, 4, 7, 5, 6], "**Inconclusive.** "),  # rho is 0.41, and p 0.25
    ],
)
def test_heavy_classes_are_easy_or_hard_only_if_so_few_classes_can_say(difficulty, words):
    classes = made_up([difficulty] * 5, [difficulty] * 5)
    assert findings.heaviness_in_words(classes).startswith(words)
    few = made_up([difficulty], [difficulty])
    assert findings.heaviness_in_words(few).startswith("**Too few seeds for a verdict.**")
    assert "Classes with a weight above 1/K: f, g, h, i, j;" in findings.heaviness_in_words(classes)


def surpassed(difference, seeds=5):
    """The line of a comparison of FID at 20 %: the coreset, minus all the data."""
    frame = results(moderate={0.2: around(10 + difference, seeds)}, full={1.0: [10.0] * seeds})
    return findings.Page(frame, [("moderate", "full")], added=True).compare("moderate", "full")


@pytest.mark.parametrize(
    "shares, difference, words",
    [
        (around(70), -3, "(-3.22 to -2.74, 5 seeds)), and the share is above one half."),
        (around(17), -3, "It has here, too (FID, the coreset minus all the data: -2.98"),
        (around(17), -3, "and the share is below one half."),
        ([40, 60, 45, 55, 51], -3, "and the share is not told from one half."),
        (around(70), 3, 'are clipped. The paper expects a majority because its coreset "has surpassed"'),
        (around(70), 3, "not found (FID, the coreset minus all the data: +3.02 (2.78 to 3.26, 5 seeds)), so"),
        (around(17), 0, "so the reason is not tested."),
        ([17, 17.2], 3, "margins, 17 % (16 to 18, 2 seeds) are clipped. A verdict needs 5 seeds."),
        ([17], 3, "margins, 17 % (1 seed) are clipped. A verdict needs 5 seeds."),
        ([], 3, "No results yet."),
    ],
)
def test_clipped_margins_test_the_papers_reason_only_where_its_premise_holds(shares, difference, words):
    said = findings.clipped_in_words(shares, surpassed(difference))
    assert words in said
    assert ("one half" in said) == (difference < 0 and len(shares) >= 5)
    few = findings.clipped_in_words(around(70), surpassed(-3, seeds=3))
    assert few.endswith("Too few seeds tell whether it has here.")
    assert findings.clipped_in_words(around(70), surpassed(0)[:0]).endswith("whether it has here.")


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


# ---- costs, copies and provenance ------------------------------------------------------------------


def test_copies_are_told_by_the_row_with_the_most():
    frame = results(random=[1, 1], full={1.0: [1]}).assign(copies=[0.018, 0.022, 0.001])
    said = findings.copies_in_words(frame)
    assert said.startswith("The largest of 2 mean shares of near-copies among the samples is 2.0 % (")
    assert "2 seeds), for Uniform random at 10 %. With all the data: 0.1 % (1 seed)." in said
    assert findings.copies_in_words(frame.assign(copies=None)).startswith("Near-copies were not counted")


def test_seeds_that_another_network_measured_are_told_apart():
    frame = results(random=[1, 2, 3], moderate=[1, 2, 3])

    def measured_by(networks):
        return frame.assign(
            result=[
                {
                    "protocol": f"FID, 64 features of {name}, layer x",
                    "floor": {"fid": 0.25 + 1e-6 * (name == "b")},
                }
                for name in networks
            ]
        )

    by_seed = measured_by(frame.seed.map({0: "a", 1: "a", 2: "b"}))
    assert findings.shared_in_words(by_seed[by_seed.seed < 2]) == ""
    said = findings.shared_in_words(by_seed)
    assert "with 2 FID networks, trained separately (the real-vs-real FIDs differ by at most 4e-06" in said
    assert "One measured seeds 0, 1; another one seed 2. So both sides of every difference" in said
    said = findings.shared_in_words(measured_by("aaaabb"))
    assert "Of the 6 runs that this page compares, 2 were measured with another one than most runs" in said
    assert "and ratio: *ResNet-18, Moderate-DS* at 10 % (seeds 1, 2)." in said and "machine" not in said
    by_ratio = measured_by("abbabb").assign(ratio=[0.1, 0.4, 0.4] * 2, seed=[0, 0, 1] * 2)
    said = findings.shared_in_words(by_ratio)
    assert said.endswith("a difference between two shares may include what the networks differ by.")


def test_a_page_says_how_its_results_were_made():
    cells = grid.cells("figure2", "smoke")

    def result(date):
        provenance = {"date": date, "machine": "x86_64", "versions": {"torch": "9.9"}}
        return {"provenance": provenance, "floor": {"fid": 0.5}}

    row, ratio, seed = cells[0]
    frame = pd.DataFrame({"row": [row], "ratio": [ratio], "seed": [seed], "result": [result("2001-02-03")]})
    assert findings.made_in_words(frame, "figure2", "smoke") == (
        f"1 run over 1 seed ({len(cells) - 1} more still missing), "
        "computed on 2001-02-03 on x86_64 with PyTorch 9.9."
    )
    assert findings.made_in_words(frame[:0], "figure2", "smoke") == "No results yet."
    protocol = "FID of 1500 samples (seed 3) against all 1500 training images, labels in the shares"
    digits = {"floor": {"fid": 0.5}, "protocol": protocol}
    real = findings.floor_in_words(digits)
    assert "is 0.50." in real and "Each half has 750" in real and "would be about 0.25" in real
    fewer = findings.floor_in_words({**digits, "protocol": protocol.replace("1500", "750", 1)})
    assert "for 750 samples of a model against all 1,500 real images" in fewer and "about 0.38." in fewer
    held_out = findings.floor_in_words({**digits, "held_out_fid": 0.3})
    assert held_out.startswith("The FID of held-out real images is 0.30. ")


def test_the_weights_of_several_seeds_are_alike_or_not():
    def cells(weights):
        rows = [{"row": "moderate-reweighted", "ratio": 0.1, "result": {"class_weights": w}} for w in weights]
        return pd.DataFrame(rows)

    alike = findings.steady_in_words(cells([[0.1, 0.2, 0.3, 0.4]] * 5))
    assert "W = 1.00 at 10 % (p" in alike and "5 seeds" in alike
    assert "At least two seeds" in findings.steady_in_words(cells([[0.5, 0.5]]))
    assert "At least two seeds" in findings.steady_in_words(
        cells([]).reindex(columns=["row", "ratio", "result"])
    )


def test_fid_by_several_networks():
    frame = results(random={0.1: [1.0, 2.0], 0.2: [7.0, 7.0]}, moderate={0.1: [3.0, 5.0]})
    cells = frame.assign(result=[{"fids": [x, 2 * x, x**2]} for x in frame.fid])
    said = findings.networks_in_words(cells, *PAIR)
    assert "4 cells of 2 rows at 10 %" in said and "3 networks" in said and "1.00 to 1.00" in said
    first, second, third = said.partition("each network: ")[2].split("; ")
    assert [part.split()[0] for part in (first, second, third)] == ["+2.50", "+5.00", "+14.50"]
    one = findings.networks_in_words(frame.assign(result=[{}] * len(frame)), *PAIR)
    assert one == "FID was measured with only one network."


def test_without_classes_there_is_nothing_to_say_of_them():
    assert findings.gains_in_words(None) == findings.heaviness_in_words(None) == "No results yet."
    assert findings.class_gains(None).empty


def test_more_steps_help_or_do_not():
    rows = [(1.0, s, n, fid + s) for s in (0, 1) for n, fid in ((10, 9.0), (100, 7.0))]
    rows += [(0.1, s, n, fid + s) for s in (0, 1) for n, fid in ((10, 8.0), (50, 7.5), (100, 8.5))]
    frame = pd.DataFrame(rows, columns=["ratio", "seed", "steps", "fid"])
    said = findings.steps_in_words(frame)
    assert said.startswith(
        "FID at the end (2 seeds): with all the data it is 7.50 after 100 steps, lower than at"
    )
    assert said.endswith("with a random 10 % it is 9.00 after 100 steps, after a minimum of 8.00.")
    assert findings.steps_in_words(frame.iloc[:0]) == ""


def test_comparisons_that_only_one_metric_shows_are_listed():
    rng = np.random.default_rng(0)
    frame = results(random=np.zeros(5), moderate=1 + rng.normal(0, 0.1, 5), gaussian=rng.normal(0, 0.1, 5))
    frame = frame.assign(kid=np.where(frame.row == "gaussian", 1, 0) + rng.normal(0, 0.1, len(frame)))
    pairs = [("moderate", "random"), ("gaussian", "random")]
    page, others = findings.Page(frame, pairs), findings.Page(frame, pairs, "kid", added=True)
    said = findings.metrics_in_words(page, others)
    moderate, gaussian = (
        f"*{grid.LABELS[row]}* minus *Uniform random* at 10 %" for row in ("moderate", "gaussian")
    )
    assert said == (
        f"Intervals that exclude zero by FID and not by KID: {moderate}; by KID and not by FID: {gaussian}."
    )
    fewer = findings.Page(frame[frame.row != "gaussian"], pairs, "kid", added=True)
    assert findings.metrics_in_words(page, fewer).endswith(f"{moderate}; by KID and not by FID: none.")
    assert findings.metrics_in_words(page, findings.Page(frame[:0], pairs, "kid")) == "No results yet."


# ---- what follows ----------------------------------------------------------------------------------


MEANING = {"better": "it helps", "worse": "it harms", "inconclusive": "nothing is shown"}


def test_a_conclusion_says_what_each_outcome_means_and_at_which_ratios():
    ratios = {0.1: around(1.0), 0.2: around(2.0), 0.4: around(3.0)}
    frame = results(random={ratio: [2.0] * 5 for ratio in ratios}, moderate=ratios)
    page = findings.Page(frame, [PAIR])
    told = "At 10 %, it helps; at 40 %, it harms; at 20 %, nothing is shown"
    assert findings.concluded(page, *PAIR, MEANING) == f"{told}."
    added = findings.Page(frame, [PAIR], added=True)
    assert findings.concluded(added, *PAIR, MEANING) == (
        f"{told} (by the 95 % intervals alone; chosen after the results, so without a verdict)."
    )
    recall = frame.rename(columns={"fid": "recall"})
    for late in (False, True):
        higher = findings.Page(recall, [PAIR], "recall", added=late)
        assert findings.concluded(higher, *PAIR, MEANING).startswith("At 40 %, it helps; at 10 %, it harms")
    few = findings.Page(frame[frame.seed < 4], [PAIR])
    assert findings.concluded(few, *PAIR, MEANING) == "A conclusion needs 5 seeds."


def test_an_fid_that_is_bought_with_recall_is_told():
    pairs = [("moderate", "random"), ("gaussian", "random")]
    frame = results(random=[2.0] * 5, moderate=around(1.0), gaussian=around(1.0))
    frame = frame.assign(recall=np.where(frame.row == "gaussian", 0.2, 0.5) + 0.01 * (frame.fid % 0.3))
    page = findings.Page(frame, [*pairs, ("moderate", "gaussian")])
    said = findings.traded_in_words(page, findings.Page(frame, pairs, "recall", added=True))
    moderate, gaussian = "*ResNet-18, Moderate-DS* at 10 %", "*ResNet-18, Gaussian* at 10 %"
    assert f"FID lies below zero: {moderate}, {gaussian}. Of these" in said
    assert said.endswith(f"recall lies below zero, too, for: {gaussian}.")
    assert findings.traded_in_words(page, findings.Page(frame[:0], pairs, "recall")) == "No results yet."


def test_the_claims_of_figure_2_are_shown_or_not():
    before = np.tile(np.arange(10.0), (5, 1)) + around(0, by=0.1)[0]
    gained = before - 1 + 0.1 * np.array(FIVE)[:, None]
    said = findings.claims_in_words(made_up(before, gained))
    assert "all classes gain is shown here: after correction, 10 of 10 do" in said
    assert "the easy ones is not shown here: the rank correlation is 1.00 (p < 0.001)" in said
    said = findings.claims_in_words(made_up(-before, -before))
    assert "gain is not shown here: after correction, 0 of 10 do" in said
    assert "the easy ones is shown here: the rank correlation is -1.00" in said
    assert findings.claims_in_words(made_up(before[:3], gained[:3])) == "A conclusion needs 5 seeds."
    assert findings.claims_in_words(None) == "A conclusion needs 5 seeds."


def test_recipes_are_faster_or_slower():
    index = pd.MultiIndex.from_tuples([("One", "10 %"), ("One", "20 %"), ("Two", "10 %")])
    said = findings.faster_in_words(pd.Series([5.0, 0.9, 2.0], index))
    assert said == "Faster than one run on all the data: *One* at 10 %; *Two* at 10 %. Slower: *One* at 20 %."
    assert findings.faster_in_words(pd.Series([], index[:0], dtype=float)) == "No results yet."


def test_the_cost_of_a_recipe_in_words():
    index = pd.MultiIndex.from_tuples([("Uniform random", "10 %"), ("Uniform random", "20 %")])
    columns = {"evaluations, whole recipe": [10.2, 20.0], "CPU time, whole recipe": [24.6, 30.0]}
    said = findings.cost_in_words(pd.DataFrame(columns, index), ["random", "moderate"], 0.1)
    assert said == (
        "Of what a run on all the data takes, at 10 %: *Uniform random* takes 10 % of the network evaluations "
        "and 25 % of the CPU time."
    )
    assert findings.cost_in_words(pd.DataFrame(columns, index), ["moderate"], 0.1) == "No results yet."


def test_what_the_fid_network_shares_with_the_one_that_selects():
    said = findings.fid_network_in_words("cifar10-latent")
    assert "a ResNet-18 of width 16, is of the same architecture and width as the ResNet-18 that" in said
    assert "from 1 seed (20 epochs; the one that selects: 25). No second feature space was tried." in said
    wider = load_profile("cifar10-latent", **{"evaluate.width": 8, "evaluate.networks": 2})
    said = findings.fid_network_in_words(wider)
    assert "is of another architecture or width than" in said and "from 2 seeds" in said
    assert "No second" not in said and "published Inception-v3" in findings.fid_network_in_words("paper")
