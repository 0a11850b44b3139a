import numpy as np
import pytest
import torch

from dedt_lib.errors import DedtError
from dedt_lib.randomness import numpy_generator
from dedt_lib.reweighting import GroupDRO, average_weights, class_excess, effective_classes, update_weights
from dedt_lib.training import Batch


class ZeroLoss(torch.nn.Module):
    """A reference model whose losses are all zero."""

    def losses(self, batch):
        return torch.zeros(len(batch.labels))


def batch(labels):
    return Batch(None, torch.as_tensor(labels), None, None, None)


def step(dro, losses, labels):
    return dro(torch.as_tensor(losses, dtype=torch.float32), batch(labels))


# ---- the pure step -------------------------------------------------------------------------------


def test_trajectory_and_mean_match_the_reference(golden):
    g = golden("dro")
    constants = {"step_size": float(g["eta"]), "smoothing": float(g["smoothing"])}
    weights, trajectory = np.full(6, 1 / 6), []
    for excess in g["excess"]:
        weights = update_weights(weights, excess, **constants)
        trajectory.append(weights)
    np.testing.assert_allclose(trajectory, g["weights"], rtol=1e-12)
    np.testing.assert_allclose(average_weights(trajectory), g["mean"], rtol=1e-12)


def test_one_step_by_hand():
    # The exponentials are 3 and 1, which gives 0.75 and 0.25; smoothing goes a tenth of the way to uniform.
    weights = update_weights([0.5, 0.5], [np.log(3), 0], step_size=1.0, smoothing=0.1)
    np.testing.assert_allclose(weights, [0.725, 0.275])


def test_weights_stay_on_the_simplex():
    generator, weights = numpy_generator(0, "test"), np.full(5, 0.2)
    for _ in range(300):
        weights = update_weights(weights, generator.exponential(20, 5), smoothing=1e-3)
        assert weights.sum() == pytest.approx(1) and (weights >= 1e-3 / 5).all()


def test_equal_excess_keeps_uniform_weights():
    np.testing.assert_allclose(update_weights(np.full(4, 0.25), np.full(4, 700.0)), np.full(4, 0.25))


def test_weights_return_to_uniform_when_no_class_exceeds():
    weights = np.array([0.7, 0.2, 0.1])
    for _ in range(50):
        weights = update_weights(weights, np.zeros(3), smoothing=0.2)
    np.testing.assert_allclose(weights, np.full(3, 1 / 3), atol=1e-4)


@pytest.mark.parametrize("excess", [[1.0, np.nan], [1.0, np.inf], [1.0, 2.0, 3.0]])
def test_excess_must_be_finite_and_one_for_each_class(excess):
    with pytest.raises(DedtError, match="finite numbers, one per class"):
        update_weights([0.5, 0.5], excess)


def test_weights_must_be_finite():
    with pytest.raises(DedtError, match="finite numbers, one per class"):
        update_weights([0.5, np.nan], [1.0, 0.0])


# ---- excess --------------------------------------------------------------------------------------


def test_clipping_each_sample_or_the_class_mean():
    losses, reference, labels = [3.0, 0.0, 0.0, 1.0], [1.0, 1.0, 2.0, 0.0], [0, 0, 1, 1]
    by_sample, clipped = class_excess(losses, reference, labels, np.zeros(2), clip="sample")
    by_class, _ = class_excess(losses, reference, labels, np.zeros(2), clip="class")
    assert by_sample.tolist() == [1.0, 0.5] and by_class.tolist() == [0.5, 0.0]
    assert clipped == 0.5


def test_an_absent_class_keeps_its_last_excess():
    excess, _ = class_excess([2.0], [0.5], [1], np.array([0.1, 0.2, 0.3]))
    assert excess.tolist() == [0.1, 1.5, 0.3]


# ---- the hook ------------------------------------------------------------------------------------


def test_the_under_fitted_class_gains_weight():
    dro = GroupDRO(ZeroLoss(), [2, 2, 2], step_size=1.0)
    for _ in range(5):
        step(dro, [0.1, 0.1, 0.1, 0.1, 0.9, 0.9], [0, 0, 1, 1, 2, 2])
    assert dro.weights[2] > 0.8 and dro.weights[0] == pytest.approx(dro.weights[1])
    assert (np.diff([weights[2] for weights in dro.trajectory]) > 0).all()


def test_a_step_weighs_with_the_weights_it_has_just_updated():
    dro = GroupDRO(ZeroLoss(), [30, 10], smoothing=0.1)
    weights = step(dro, [np.log(3), 0, 0], [0, 1, 1])
    # alpha is (0.725, 0.275), as in one step by hand; the shares of the classes are 3/4 and 1/4.
    np.testing.assert_allclose(weights, [0.725 / 0.75, 0.275 / 0.25, 0.275 / 0.25], rtol=1e-6)


def test_burn_in_keeps_weights_uniform_and_out_of_the_average():
    dro = GroupDRO(ZeroLoss(), [1, 1], burn_in=3)
    for _ in range(3):
        assert step(dro, [5.0, 0.0], [0, 1]).tolist() == [1, 1]
    step(dro, [1.0, 0.0], [0, 1])
    np.testing.assert_array_equal(dro.average, dro.trajectory[3])
    assert dro.average[0] > 0.5 and len(dro.trajectory) == 4


def test_the_average_starts_at_the_first_step_without_burn_in():
    dro = GroupDRO(ZeroLoss(), [1, 1])
    for _ in range(4):
        step(dro, [1.0, 0.0], [0, 1])
    np.testing.assert_allclose(dro.average, np.mean(dro.trajectory, axis=0))


def test_state_and_restore_go_on_where_it_stopped():
    generator = numpy_generator(0, "test")
    draws = [(generator.exponential(1, 4), generator.integers(0, 3, 4)) for _ in range(10)]
    whole, first, second = (GroupDRO(ZeroLoss(), [4, 4, 4], burn_in=2) for _ in range(3))
    for draw in draws:
        step(whole, *draw)
    for draw in draws[:6]:
        step(first, *draw)
    second.restore(first.state())
    for draw in draws[6:]:
        step(second, *draw)
    for name, value in whole.state().items():
        assert torch.equal(second.state()[name], value)


class Noisy(torch.nn.Module):
    """A proxy whose dropout doubles a loss or sets it to zero."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)

    def losses(self, batch):
        return self.dropout(torch.ones(len(batch)))


def test_scores_without_dropout_are_another_forward_pass():
    proxy = Noisy().train()
    draw = batch([0, 0, 1, 1])
    torch.manual_seed(0)
    excess = {}
    for scores in ("train", "eval"):
        dro = GroupDRO(ZeroLoss(), [2, 2], scores=scores)
        dro(proxy.losses(draw), draw, proxy)
        excess[scores] = dro.excess.tolist()
        assert proxy.training
    assert excess["eval"] == [1, 1]
    assert set(excess["train"]) <= {0, 1, 2} and excess["train"] != [1, 1]


def test_the_reference_is_frozen():
    reference = torch.nn.Linear(1, 1)
    GroupDRO(reference, [1, 1])
    assert not reference.training and not any(p.requires_grad for p in reference.parameters())


def test_the_weights_carry_no_gradient():
    dro, losses = GroupDRO(ZeroLoss(), [1, 1]), torch.tensor([2.0, 1.0], requires_grad=True)
    for _ in range(2):
        weights = dro(losses, batch([0, 1]))
        (weights * losses).sum().backward()
        assert torch.equal(losses.grad, weights)
        losses.grad = None


def test_before_anything_has_moved_the_weights_are_uniform():
    dro = GroupDRO(ZeroLoss(), [1, 1], burn_in=1)
    assert dro.trajectory.shape == (0, 2) and dro.average.tolist() == [0.5, 0.5]
    step(dro, [1.0, 0.0], [0, 1])
    assert dro.average.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type_are_numbers_of_classes(kind):
    wanted = step(GroupDRO(ZeroLoss(), [2, 1]), [1.0, 0.0, 2.0], [0, 1, 0])
    narrow = torch.tensor([0, 1, 0], dtype=kind)
    assert torch.equal(step(GroupDRO(ZeroLoss(), [2, 1]), [1.0, 0.0, 2.0], narrow), wanted)


def test_bad_input_says_what_to_do():
    with pytest.raises(DedtError, match="ZeroLoss has no element_losses.*another clip level"):
        GroupDRO(ZeroLoss(), [1, 1], clip="element")
    with pytest.raises(DedtError, match="Pass it as the third argument"):
        step(GroupDRO(ZeroLoss(), [1, 1], scores="eval"), [1.0, 0.0], [0, 1])
    with pytest.raises(DedtError, match="Unknown clip level 'Class'"):
        class_excess([1.0], [0.0], [0], [0.0], clip="Class")
    with pytest.raises(DedtError, match="no image in the coreset.*larger ratio"):
        GroupDRO(ZeroLoss(), [3, 0])
    with pytest.raises(DedtError, match="sample, class"):
        GroupDRO(ZeroLoss(), [3, 3], clip="pixel")


# ---- summaries -----------------------------------------------------------------------------------


def test_effective_classes_count():
    weights = [[0.25] * 4, [0.5, 0.5, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(effective_classes(weights), [4, 2, 1])


def test_a_window_of_nine_tenths_is_nine_of_ten_steps():
    dro = GroupDRO(ZeroLoss(), [1, 1], smoothing=0.0, window=0.9)
    for _ in range(10):
        step(dro, [1.0, 0.0], [0, 1])
    np.testing.assert_allclose(dro.average, average_weights(dro.trajectory, start=1))


def test_average_is_over_the_window():
    trajectory = [[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]]
    np.testing.assert_allclose(average_weights(trajectory, start=1), [0.4, 0.6])
