import numpy as np
import pytest

from dedt_lib.errors import DedtError
from dedt_lib.plans import ClassDrawPlan, EpochPlan, InfoBatchPlan
from dedt_lib.training import InfoBatchPlan as public_name


def plan(n=100, **changes):
    return InfoBatchPlan(n, **{"prune_ratio": 0.5, "epochs": 8, **changes})


def train(infobatch, losses, epochs):
    """Visit and record the plan's epochs as a training run does, with given losses float [epochs, n]."""
    for e in range(epochs):
        indices, _ = infobatch.epoch(e)
        infobatch.record(indices, losses[e % len(losses), indices])


# ---- InfoBatch -----------------------------------------------------------------------------------


def test_infobatch_agrees_with_the_package(golden):
    """Counts, samples that must stay, and weights are the same; only the random draw may differ."""
    reference = golden("infobatch")
    n = reference["losses"].shape[1]
    settings = {name: float(reference[name]) for name in ("prune_ratio", "delta")}
    ours = public_name(n, epochs=4, **settings)
    for e in range(4):
        ours.scores = reference[f"scores_before_{e}"].astype(np.float64)
        indices, weights = ours.epoch(e)
        kept, package_weights = reference[f"kept_{e}"], reference[f"weights_{e}"]
        assert len(indices) == len(kept)
        pruned_from = ours.scores < ours.scores.mean() if e < 3 else np.zeros(n, dtype=bool)
        must_stay = np.flatnonzero(~pruned_from)
        assert set(must_stay) <= set(indices) and set(must_stay) <= set(kept)
        np.testing.assert_allclose(np.sort(weights), np.sort(package_weights[kept]), rtol=1e-6)
        np.testing.assert_array_equal(weights > 1, pruned_from[indices])


def test_the_first_epoch_and_the_tail_visit_everything():
    infobatch, losses = plan(), np.random.default_rng(0).random((1, 100))
    visited = []
    for e in range(8):
        indices, weights = infobatch.epoch(e)
        visited.append(len(indices))
        if e in (0, 7):
            assert indices.tolist() == list(range(100)) and (weights == 1).all()
        infobatch.record(indices, losses[0, indices])
    well_learned = (losses < losses.mean()).sum()
    assert visited == [100] + [100 - well_learned + int(0.5 * well_learned)] * 6 + [100]


def test_weights_keep_the_mean_loss_in_expectation():
    losses = np.random.default_rng(1).random(100)
    means = []
    for seed in range(400):
        infobatch = plan(seed=seed)
        infobatch.record(np.arange(100), losses)
        indices, weights = infobatch.epoch(1)
        means.append((weights * losses[indices]).sum() / 100)
    assert np.mean(means) == pytest.approx(losses.mean(), rel=0.01)


@pytest.mark.parametrize("well_learned", [10, 100, 5000])
def test_a_tenth_is_a_tenth(well_learned):
    infobatch = plan(n=2 * well_learned, prune_ratio=1 - 0.1)
    infobatch.record(np.arange(2 * well_learned), np.repeat([0.0, 1.0], well_learned))
    indices, weights = infobatch.epoch(1)
    assert len(indices) == well_learned + well_learned // 10
    assert weights.sum() == pytest.approx(2 * well_learned)


@pytest.mark.parametrize("loss, n", [(0.1, 1000), (0.7, 7), (1 / 3, 10)])
def test_equal_losses_prune_nothing(loss, n):
    infobatch = plan(n=n, prune_ratio=0.9)
    infobatch.record(np.arange(n), np.full(n, loss))
    assert len(infobatch.epoch(1)[0]) == n


def test_a_sample_that_is_skipped_keeps_its_score():
    infobatch = plan()
    infobatch.record(np.arange(100), np.linspace(0, 1, 100))
    infobatch.record([3], [7.0])
    assert infobatch.scores[3] == 7 and infobatch.scores[4] == np.linspace(0, 1, 100)[4]


def test_without_pruning_every_epoch_is_everything():
    infobatch, losses = plan(prune_ratio=0.0), np.random.default_rng(2).random((8, 100))
    for e in range(8):
        indices, weights = infobatch.epoch(e)
        assert sorted(indices) == list(range(100)) and (weights == 1).all()
        infobatch.record(indices, losses[e, indices])


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.8])
def test_a_budget_is_met_in_every_pruning_epoch(budget):
    infobatch = plan(prune_ratio=None, budget=budget)
    infobatch.record(np.arange(100), np.r_[np.full(60, 0.1), np.full(40, 1.0)])
    indices, weights = infobatch.epoch(2)
    assert len(indices) == round(budget * 100)
    assert weights.sum() == pytest.approx(100)
    if budget > 0.4:
        assert set(range(60, 100)) <= set(indices) and (weights[indices >= 60] == 1).all()
    else:
        assert (weights == 1 / budget).all()


def test_the_draw_of_an_epoch_stays_while_its_losses_come_in():
    infobatch = plan()
    infobatch.record(np.arange(100), np.linspace(0, 1, 100))
    before = infobatch.epoch(1)
    infobatch.record(np.arange(50), np.full(50, 9.0))
    for a, b in zip(before, infobatch.epoch(1)):
        np.testing.assert_array_equal(a, b)


def test_the_first_epoch_is_everything_whatever_came_in():
    infobatch = InfoBatchPlan(10, prune_ratio=0.5, epochs=4)
    infobatch.record(np.arange(10), np.arange(10.0))
    assert len(infobatch.epoch(0)[0]) == 10 > len(infobatch.epoch(1)[0])


def test_infobatch_goes_on_from_its_state():
    losses = np.random.default_rng(3).random((8, 100))
    whole, first = plan(), plan()
    train(whole, losses, 4)
    train(first, losses, 3)
    half_way = first.epoch(3)[0][:20]
    first.record(half_way, losses[3, half_way])
    second = plan()
    second.restore({name: np.array(value) for name, value in first.state().items()})
    rest = second.epoch(3)[0]
    second.record(rest, losses[3, rest])
    for a, b in zip(whole.epoch(4), second.epoch(4)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"prune_ratio": 1.0}, r"\[0, 1\)"),
        ({"prune_ratio": None, "budget": 0}, r"\(0, 1\]"),
        ({"budget": 0.5}, "not both"),
        ({"prune_ratio": None}, "prune_ratio or a budget"),
    ],
)
def test_infobatch_refuses_what_is_out_of_range(settings, message):
    with pytest.raises(DedtError, match=message):
        plan(**settings)


# ---- static plans --------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs, subset_epochs", [(2000, 1750), (8, 7), (9, 7), (1, 0)])
def test_annealing_visits_everything_in_the_tail(epochs, subset_epochs):
    annealed = EpochPlan([1, 3], total=5, epochs=epochs, weights=[0.5, 1.5], annealing_start=0.875)
    assert annealed.subset_epochs == subset_epochs
    assert annealed.epoch(subset_epochs)[0].tolist() == [0, 1, 2, 3, 4]
    assert annealed.epoch(subset_epochs)[1].tolist() == [1] * 5
    if subset_epochs:
        indices, weights = annealed.epoch(subset_epochs - 1)
        assert indices.tolist() == [1, 3] and weights.tolist() == [0.5, 1.5]


def test_the_tail_can_keep_class_weights():
    annealed = EpochPlan([0], total=3, epochs=8, annealing_start=0.5, tail_weights=[0.5, 1.0, 1.5])
    assert annealed.epoch(3)[1].tolist() == [1] and annealed.epoch(4)[1].tolist() == [0.5, 1.0, 1.5]


def test_steps_count_the_partial_batches():
    assert EpochPlan(np.arange(30), total=30, epochs=4).steps(8) == 16
    # The paper's run at 10 % with annealing: 1750 epochs of 40 batches, then 250 of 391.
    annealed = EpochPlan(np.arange(5000), total=50_000, epochs=2000, annealing_start=0.875)
    assert annealed.steps(128) == 1750 * 40 + 250 * 391


@pytest.mark.parametrize("wrong", [{"weights": [1.0]}, {"tail_weights": [1.0, 2.0]}])
def test_one_weight_for_each_sample(wrong):
    with pytest.raises(DedtError, match="expected one per sample"):
        EpochPlan([0, 1], total=3, epochs=1, **wrong)


@pytest.mark.parametrize("wrong", [np.arange(3) < 2, [-1], [3], [0.5]], ids=str)
def test_samples_are_named_by_their_positions(wrong):
    with pytest.raises(DedtError, match="integer positions|must lie in 0..2"):
        EpochPlan(wrong, total=3, epochs=1)


# ---- drawing by class weights --------------------------------------------------------------------


def test_classes_are_drawn_by_their_weights():
    labels = np.array([0] * 10 + [1] * 30)
    plan = ClassDrawPlan(np.arange(100, 140), labels, [0.75, 0.25], seed=0, total=200, epochs=300)
    drawn = np.concatenate([plan.epoch(e)[0] for e in range(300)])
    assert len(drawn) == 300 * 40 and set(drawn) == set(range(100, 140))
    assert (drawn < 110).mean() == pytest.approx(0.75, abs=0.02)
    share_of_one = np.bincount(drawn - 100) / len(drawn)
    assert share_of_one[:10].std() < 0.01 and (plan.epoch(0)[1] == 1).all()


def test_each_epoch_is_drawn_anew_and_alike():
    labels, how = np.arange(20) % 2, {"seed": 1, "total": 20, "epochs": 8}
    plan, again = (ClassDrawPlan(np.arange(20), labels, [0.5, 0.5], **how) for _ in range(2))
    assert plan.epoch(3)[0].tolist() == again.epoch(3)[0].tolist() != plan.epoch(4)[0].tolist()


def test_drawn_classes_leave_the_tail_alone():
    plan = ClassDrawPlan([0, 1], [0, 1], [0.5, 0.5], seed=0, total=4, epochs=8, annealing_start=0.875)
    assert plan.epoch(7)[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [[1.0], [0.2, 0.2, 0.6], [1.5, -0.5]])
def test_every_class_that_is_drawn_has_one_weight_and_a_sample(wrong):
    with pytest.raises(DedtError):
        ClassDrawPlan([0, 1, 2], [0, 1, 1], wrong, total=3, epochs=1)
