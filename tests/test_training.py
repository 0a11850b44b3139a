import dataclasses
import errno
import functools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from dedt_lib import interruption
from dedt_lib.data import LabelledImages
from dedt_lib.errors import DedtError
from dedt_lib.processes import Processes
from dedt_lib.reweighting import GroupDRO
from dedt_lib.selection import class_to_sample_weights
from dedt_lib.training import (
    EpochPlan,
    InfoBatchPlan,
    checkpoint,
    diffusion,
    draw_batch,
    loop,
    train,
)
from dedt_lib.training.checkpoint import CHECKPOINT
from dedt_lib.training.diffusion import batch_loss, shuffled_epoch
from dedt_lib.weights import read_tensors

TOTAL_STEPS = 16  # four epochs of 30 digits in batches of 8, 8, 8 and 6


def everything(data, **changes):
    return EpochPlan(**{"indices": np.arange(len(data)), "total": len(data), "epochs": 4, **changes})


def run(folder, digits, *, plan=None, dropout=0.0, dro=False, infobatch=False, seed=0, keep=(), **changes):
    """Train the tiny U-Net in ``folder``; the result, and the files of the folder with their content."""
    folder.mkdir(exist_ok=True)
    if infobatch:
        plan = InfoBatchPlan(len(digits), prune_ratio=0.1, epochs=4, delta=0.75)
    weighting = GroupDRO(tiny.unet(seed=9), digits.class_counts, burn_in=2) if dro else None
    where = {"folder": folder, "weighting": weighting, "keep_steps": keep, "seed": seed}
    model, plan = tiny.unet(dropout=dropout), plan or everything(digits)
    result = train(model, digits, plan, tiny.settings(**changes), **where)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}
    return result, files


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, digits):
    """A cached function from the arguments of ``run`` to the result and files of an uninterrupted run."""
    return functools.cache(lambda **kind: run(tmp_path_factory.mktemp("whole") / "run", digits, **kind))


# ---- interrupted and resumed ---------------------------------------------------------------------


WHEN = {2: "before a checkpoint", 8: "mid-epoch", 12: "at an epoch", 15: "late"}


@pytest.mark.parametrize("after", WHEN, ids=WHEN.get)
@pytest.mark.parametrize("kind", [{}, {"dropout": 0.3}, {"dro": True}, {"infobatch": True}])
def test_a_resumed_run_equals_an_uninterrupted_one(uninterrupted, tmp_path, monkeypatch, digits, kind, after):
    kind = {**kind, "keep": (5, 10)}
    whole, expected = uninterrupted(**kind)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, after)
        run(tmp_path / "parts", digits, **kind)
    assert (tmp_path / "parts" / CHECKPOINT).exists() == (after >= 3)
    resumed, files = run(tmp_path / "parts", digits, **kind)
    kept = {"ema-000005.safetensors", "ema-000010.safetensors"}
    assert files == expected and set(files) == {"model.safetensors", "losses.npy", *kept}
    assert resumed.losses.tolist() == whole.losses.tolist()
    assert (resumed.steps, resumed.images_seen) == (whole.steps, whole.images_seen)
    assert whole.steps == TOTAL_STEPS and (whole.images_seen < 120 if "infobatch" in kind else True)


OTHERS = [{"seed": 1}, {"learning_rate": 2e-3}, {"batch_size": 9}, {"plan": {"indices": np.arange(20)}}]
OTHERS += [{"plan": {"annealing_start": 0.5}}, {"plan": {"annealing_start": 0.75, "tail_weights": range(30)}}]


@pytest.mark.parametrize("change", [*OTHERS, {"labels": [1, 0]}, {"images": 1}], ids=str)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch, digits, change):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 8)
        tail = {"annealing_start": 0.75} if "tail_weights" in change.get("plan", {}) else {}
        run(tmp_path, digits, plan=everything(digits, **tail))
    change = dict(change)
    if "plan" in change:
        change["plan"] = everything(digits, **change["plan"])
    if "labels" in change:
        digits = dataclasses.replace(digits, labels=np.roll(digits.labels, 1))
        del change["labels"]
    if "images" in change:
        digits = dataclasses.replace(digits, images=255 - digits.images)
        del change["images"]
    with pytest.raises(DedtError, match="cannot be resumed .it was written with"):
        run(tmp_path, digits, **change)


def test_what_the_steps_take_may_change_between_them(tmp_path, monkeypatch, digits, uninterrupted):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 8)
        run(tmp_path, digits, seed=np.int64(0))
    assert run(tmp_path, digits, checkpoint_every=5)[1] == uninterrupted()[1]


@pytest.mark.parametrize("name", ["optimizer", "ema_warmup", "precision"])
def test_settings_have_known_choices(name):
    with pytest.raises(DedtError, match=f"Unknown {name} 'float16'. Choose one of"):
        tiny.settings(**{name: "float16"})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "checkpoint_every"])
def test_sizes_of_a_run_are_positive(name):
    with pytest.raises(DedtError, match=f"{name} must be at least 1; got 0"):
        tiny.settings(**{name: 0})


def test_a_plan_without_samples_is_refused(tmp_path, digits):
    with pytest.raises(DedtError, match="visits no samples"):
        run(tmp_path, digits, plan=EpochPlan([], total=len(digits), epochs=3))


def test_an_epoch_without_samples_takes_no_step(tmp_path, digits):
    class Sparse(EpochPlan):
        def epoch(self, e):
            return (np.arange(0), np.ones(0)) if e else super().epoch(e)

    result, _ = run(tmp_path, digits, plan=Sparse(np.arange(20), total=len(digits), epochs=3))
    assert result.images_seen == 20 and np.isfinite(result.losses).all()


def test_resuming_keeps_the_trajectory_of_the_class_weights(tmp_path, monkeypatch, digits):
    def go(folder):
        weighting = GroupDRO(tiny.unet(seed=9), digits.class_counts, burn_in=2)
        how = {"seed": 0, "folder": folder, "weighting": weighting}
        train(tiny.unet(), digits, everything(digits), tiny.settings(), **how)
        return weighting

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = go(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 7)
        go(tmp_path / "parts")
    resumed = go(tmp_path / "parts")
    assert len(whole.trajectory) == TOTAL_STEPS
    for name, value in whole.state().items():
        assert torch.equal(resumed.state()[name], value)
    np.testing.assert_array_equal(resumed.average, whole.average)


CHILD = """
import os, random, signal, sys
from pathlib import Path
import numpy as np, tiny, torch
from dedt_lib.training import EpochPlan, checkpoint, diffusion

torch.set_num_threads(1)
luck, save = random.Random(7), checkpoint.save_file
fatal = luck.randint(2, 12)

def killed_while_saving(tensors, path, metadata):
    global fatal
    fatal -= 1
    save(tensors, path, metadata=metadata)
    if fatal == 0:
        os.truncate(path, int(luck.random() * os.path.getsize(path)))
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save_file = killed_while_saving
digits = tiny.digits()
plan = EpochPlan(np.arange(len(digits)), total=len(digits), epochs=4)
settings = tiny.settings(checkpoint_every=1)
diffusion.train(tiny.unet(), digits, plan, settings, seed=0, folder=Path(sys.argv[1]))
"""


def test_a_process_killed_while_it_saves_a_checkpoint_loses_nothing(uninterrupted, tmp_path, digits):
    whole, expected = uninterrupted()
    folder = tmp_path / "killed"
    folder.mkdir()
    child = tiny.python("-c", CHILD, folder)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert list(folder.glob("*.partial")) + list(folder.glob(".*.partial"))
    assert (folder / CHECKPOINT).exists() and not (folder / "model.safetensors").exists()
    resumed, files = run(folder, digits)
    assert files["model.safetensors"] == expected["model.safetensors"]
    assert resumed.losses.tolist() == whole.losses.tolist()


def test_a_run_killed_after_its_last_step_repeats_only_those_since_the_checkpoint(
    tmp_path, digits, monkeypatch
):
    whole, expected = run(tmp_path / "run", digits)
    (tmp_path / "run" / "model.safetensors").unlink()
    taken = tiny.recorded(monkeypatch, lambda run: run.step, before=True)
    again, files = run(tmp_path / "run", digits)
    assert taken == [15] and files == expected and again.losses.tolist() == whole.losses.tolist()


def test_a_full_disk_keeps_the_last_checkpoint(uninterrupted, tmp_path, monkeypatch, digits):
    whole, expected = uninterrupted()
    save, saves = checkpoint.save_file, []

    def save_twice(tensors, path, metadata):
        saves.append(path)
        Path(path).write_bytes(b"half a checkpoint")
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch, pytest.raises(DedtError, match="No space left.*Free some"):
        patch.setattr(checkpoint, "save_file", save_twice)
        run(tmp_path / "full", digits)
    assert [path.name for path in (tmp_path / "full").glob("*[!l]")] == [CHECKPOINT]
    assert run(tmp_path / "full", digits)[1] == expected


# ---- checkpoints ---------------------------------------------------------------------------------


@pytest.fixture
def half_trained(tmp_path, monkeypatch, digits):
    """A function that starts a run, kills it after eight steps and returns its checkpoint."""

    def start(**kind):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            tiny.interrupt(patch, 8)
            run(tmp_path / "run", digits, **kind)
        return tmp_path / "run" / CHECKPOINT

    return start


def test_a_checkpoint_is_plain_tensors_and_json(half_trained):
    content = half_trained(dro=True).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = json.loads(header.pop("__metadata__")["run"])
    parts = {"model", "ema", "optimizer", "weighting", "run"}
    assert {name.split("/")[0] for name in header} == parts
    assert (facts["step"], facts["epoch"], facts["position"]) == (6, 1, 2)
    assert not any(mark in content for mark in (b"PK\x03\x04", b"torch._utils", b"pickle"))


def test_a_finished_run_leaves_no_checkpoint_and_no_pickle(tmp_path, digits):
    _, files = run(tmp_path / "run", digits)
    assert set(files) == {"model.safetensors", "losses.npy"}
    assert np.load(tmp_path / "run" / "losses.npy", allow_pickle=False).shape == (TOTAL_STEPS,)


def flip(content, place):
    place = int(place * len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", *(lambda b, p=p: flip(b, p) for p in (0.001, 0.5, 0.999))],
)
def test_a_damaged_checkpoint_is_said_and_the_run_begins_anew(
    damage, half_trained, uninterrupted, digits, capsys
):
    _, expected = uninterrupted()
    checkpoint = half_trained()
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert run(checkpoint.parent, digits)[1] == expected
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{checkpoint} is damaged" in line and "the run starts again" in line


def test_damaged_weights_that_were_kept_on_the_way_are_made_again(
    half_trained, uninterrupted, digits, capsys
):
    _, expected = uninterrupted(keep=(5,))
    kept = half_trained(keep=(5,)).with_name("ema-000005.safetensors")
    kept.write_bytes(flip(kept.read_bytes(), 0.9))
    assert run(kept.parent, digits, keep=(5,))[1] == expected
    assert f"{kept} is damaged" in capsys.readouterr().err


# ---- asked to stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 7, TOTAL_STEPS - 1])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_of_its_step(step, signum, uninterrupted, tmp_path, monkeypatch, digits):
    whole, expected = uninterrupted(keep=(5,))
    with monkeypatch.context() as patch, pytest.raises(interruption.Stopped) as stopped:
        tiny.signal_at(patch, step, signum)
        with interruption.handled():
            run(tmp_path / "parts", digits, keep=(5,))
    assert stopped.value.signum == signum
    assert tiny.step_of(tmp_path / "parts" / CHECKPOINT) == step + 1
    taken = tiny.recorded(monkeypatch, lambda run: run.step)
    resumed, files = run(tmp_path / "parts", digits, keep=(5,))
    assert files == expected and resumed.losses.tolist() == whole.losses.tolist()
    assert len(taken) == TOTAL_STEPS - step - 1


def test_all_processes_stop_at_the_step_at_which_one_is_asked(tmp_path, digits):
    class Two(Processes):
        """The view of one of two processes; the signal reaches only the other."""

        calls, waited = 0, 0

        def any(self, flag):
            assert not flag
            self.calls += 1
            return self.calls == 5

        def wait(self):
            self.waited += 1

    two = Two()
    where = {"seed": 0, "folder": tmp_path, "processes": two}
    with pytest.raises(interruption.Stopped):
        train(tiny.unet(), digits, everything(digits), tiny.settings(), **where)
    assert two.waited == 1  # processes wait for the main one to write its checkpoint before they end
    assert tiny.step_of(tmp_path / CHECKPOINT) == 5


@pytest.mark.parametrize("other", [None, {"step_size": 50.0}])
def test_the_checkpoint_of_a_proxy_is_not_that_of_another(tmp_path, monkeypatch, digits, other):
    def trained(options):
        dro = None if options is None else GroupDRO(tiny.unet(seed=9), digits.class_counts, **options)
        where = {"seed": 0, "folder": tmp_path, "weighting": dro}
        train(tiny.unet(), digits, everything(digits), tiny.settings(), **where)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.interrupt(patch, 8)
        trained({})
    with pytest.raises(DedtError, match="cannot be resumed"):
        trained(other)


def test_a_folder_is_made_before_the_first_step(tmp_path, monkeypatch, digits):
    train(tiny.unet(), digits, everything(digits), tiny.settings(), seed=0, folder=tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "model.safetensors").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(loop.Run, "take_step", None)
    with pytest.raises(DedtError, match="Cannot create .*file"):
        train(tiny.unet(), digits, everything(digits), tiny.settings(), seed=0, folder=tmp_path / "file")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class_names": tuple("abcdefghijk")}, "largest label is 10, but the model has 10 classes"),
        ({"images": 16}, "draws .1, 8, 8. .* are .1, 16, 16."),
        ({"counts": [30] * 9}, "counts of 9 classes, but the largest label is 9"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_before_the_first_step(tmp_path, digits, change, message):
    dro = GroupDRO(tiny.unet(), change["counts"]) if "counts" in change else None
    if "class_names" in change:
        labels = np.where(np.arange(30) == 0, 10, digits.labels)
        digits = dataclasses.replace(digits, labels=labels, class_names=change["class_names"])
    if "images" in change:
        digits = dataclasses.replace(digits, images=np.zeros((30, 1, 16, 16), np.uint8))
    with pytest.raises(DedtError, match=message):
        train(
            tiny.unet(), digits, everything(digits), tiny.settings(), seed=0, folder=tmp_path, weighting=dro
        )


def test_a_checkpoint_without_class_weights_does_not_fit_a_proxy(half_trained, digits):
    folder = half_trained().parent
    with pytest.raises(DedtError, match="cannot be resumed"):
        run(folder, digits, dro=True)


# ---- weights -------------------------------------------------------------------------------------


def test_weights_of_one_change_no_bit(tmp_path, monkeypatch, digits):
    with monkeypatch.context() as patch:
        patch.setattr(diffusion, "batch_loss", lambda losses, weights, normalised: losses.mean())
        _, plain = run(tmp_path / "plain", digits)
    _, ones = run(tmp_path / "ones", digits, plan=everything(digits, weights=np.ones(len(digits))))
    assert ones == plain


def test_weights_that_are_not_one_change_the_model(uninterrupted, tmp_path, digits):
    _, plain = uninterrupted()
    plan = everything(digits, weights=1.0 + digits.labels)
    _, weighted = run(tmp_path / "weighted", digits, plan=plan)
    assert weighted["model.safetensors"] != plain["model.safetensors"]


def test_the_weighted_loss_is_normalised_by_the_batch():
    losses, weights = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 3.0])
    assert batch_loss(losses, weights).item() == pytest.approx(13 / 4)
    assert batch_loss(losses, 5 * weights).item() == pytest.approx(13 / 4)


class LossOfClass(torch.nn.Module):
    """A model whose loss of a sample is a parameter of its class, so the gradient sums weights by class."""

    def __init__(self, K):
        super().__init__()
        self.loss = torch.nn.Parameter(torch.zeros(K))

    def losses(self, batch):
        return self.loss[batch.labels]


def shares_of_an_epoch(tmp_path, patch, counts, alpha, weighting=None):
    """The share of each class in the gradient of one epoch, in batches of 25."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 1, 8, 8), np.uint8)
    data = LabelledImages(images, labels, tuple("abcd"), tuple(map(str, labels)))
    weights = None if weighting else class_to_sample_weights(alpha, counts)[labels]
    plan = EpochPlan(np.arange(len(data)), total=len(data), epochs=1, weights=weights)
    seen = tiny.recorded(patch, lambda run: run.model.loss.grad.clone())
    settings = tiny.settings(batch_size=25, gradient_clip=1e9)
    train(LossOfClass(len(counts)), data, plan, settings, seed=0, folder=tmp_path, weighting=weighting)
    gradient = torch.stack(seen).sum(dim=0).numpy()
    return gradient / gradient.sum()


LONG_TAIL = np.array([900, 50, 30, 20])


@pytest.mark.parametrize("alpha", [[0.25] * 4, [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]])
def test_a_class_counts_what_its_weight_asks_on_a_long_tail(tmp_path, monkeypatch, alpha):
    shares = shares_of_an_epoch(tmp_path, monkeypatch, LONG_TAIL, alpha)
    np.testing.assert_allclose(shares, alpha, rtol=0.02)


def test_group_dro_divides_by_the_mean_weight_of_the_batch(tmp_path, monkeypatch):
    alpha = np.full(4, 0.25)
    dro = GroupDRO(LossOfClass(4), LONG_TAIL, burn_in=40)  # longer than the epoch: weights stay uniform
    shares = shares_of_an_epoch(tmp_path, monkeypatch, LONG_TAIL, alpha, weighting=dro)
    # With DoReMi's normaliser, frequent classes count more than their weights ask for.
    assert shares[0] > 0.3 and shares[3] < 0.2


def test_samples_of_weight_zero_leave_no_trace(tmp_path, digits):
    half = digits.labels < 5
    altered = tiny.digits()
    altered.images[~half] = 255 - altered.images[~half]
    plan = everything(digits, weights=half.astype(float))
    _, first = run(tmp_path / "first", digits, plan=plan)
    _, second = run(tmp_path / "second", altered, plan=plan)
    assert first["losses.npy"] == second["losses.npy"]


# ---- the plan ------------------------------------------------------------------------------------


def test_an_annealed_run_sees_what_its_plan_says(tmp_path, digits):
    plan = EpochPlan(np.arange(10), total=30, epochs=4, annealing_start=0.75)
    result, _ = run(tmp_path / "run", digits, plan=plan)
    assert result.images_seen == 3 * 10 + 30 and result.steps == plan.steps(8) == 3 * 2 + 4


def test_shuffling_keeps_each_weight_with_its_sample():
    plan = EpochPlan(range(20), total=20, epochs=2, weights=np.arange(20.0))
    indices, weights = shuffled_epoch(plan, seed=0, epoch=0)
    assert indices.tolist() == weights.tolist() and sorted(indices) == list(range(20))


def test_every_epoch_has_an_order_of_its_own():
    plan = EpochPlan(range(20), total=20, epochs=2)
    first, again, other = (shuffled_epoch(plan, 0, epoch)[0].tolist() for epoch in (0, 0, 1))
    assert first == again != other


# ---- one step ------------------------------------------------------------------------------------


def draw(digits, step, **changes):
    return draw_batch(digits, torch.arange(30), tiny.settings(**changes), 0, step)


def test_a_draw_depends_on_the_step_alone(digits):
    first, again, other = draw(digits, 3), draw(digits, 3), draw(digits, 4)
    for name in ("images", "t", "noise", "drop"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.noise, other.noise) and not torch.equal(first.t, other.t)


def test_a_draw_has_the_documented_ranges(digits):
    draws = [draw(digits, step, label_dropout=0.2) for step in range(100)]
    t, drop = torch.cat([b.t for b in draws]), torch.cat([b.drop for b in draws])
    assert t.min() >= 0 and t.max() <= 999 and abs(t.float().mean() - 499.5) < 25
    assert abs(drop.float().mean() - 0.2) < 0.04
    assert not draw(digits, 0, label_dropout=0.0).drop.any()
    assert draw(digits, 0, label_dropout=1.0).drop.all()


def test_images_are_whole_or_mirrored(digits):
    plain, flipped = draw(digits, 0, flip=False).images, draw(digits, 0, flip=True).images
    same = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all() and same.any() and (~same).any()


def test_ema_follows_its_closed_form(tmp_path, monkeypatch, digits):
    steps = tiny.recorded(monkeypatch, lambda run: {k: v.clone() for k, v in run.model.state_dict().items()})
    run(tmp_path / "run", digits)
    average = steps[0]
    for s, parameters in enumerate(steps[1:], start=1):
        decay = 1 - (1 + s) ** (-2 / 3)
        average = {k: decay * average[k] + (1 - decay) * value for k, value in parameters.items()}
    for name, value in read_tensors(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-7)


def test_ema_decay_is_an_upper_bound(tmp_path, monkeypatch, digits):
    steps = tiny.recorded(monkeypatch, lambda run: {k: v.clone() for k, v in run.model.state_dict().items()})
    run(tmp_path / "run", digits, ema_decay=0.0)
    for name, value in read_tensors(tmp_path / "run" / "model.safetensors").items():
        assert torch.equal(value, steps[-1][name])


def test_kept_weights_are_the_average_at_that_step(tmp_path, digits):
    run(tmp_path / "short", digits, plan=everything(digits, epochs=2))
    run(tmp_path / "long", digits, keep=(8,))
    short, kept = tmp_path / "short" / "model.safetensors", tmp_path / "long" / "ema-000008.safetensors"
    assert kept.read_bytes() == short.read_bytes()


def test_keeping_weights_does_not_disturb_the_run(uninterrupted, tmp_path, digits):
    _, plain = uninterrupted()
    _, kept = run(tmp_path / "kept", digits, keep=range(TOTAL_STEPS))
    assert kept["model.safetensors"] == plain["model.safetensors"]


def test_who_wants_no_gradients_may_be_the_first_to_ask(uninterrupted, tmp_path, digits):
    with torch.no_grad():
        result, _ = run(tmp_path / "run", digits)
    assert result.losses.tolist() == uninterrupted()[0].losses.tolist()


@pytest.mark.parametrize(
    "kind, warm_up, length",
    [
        ("whole", {"warmup_steps": 8}, 8),
        # In steps, the warm-up is equally long for few and for many images ...
        ("annealed", {"warmup_steps": 5}, 5),
        ("infobatch", {"warmup_steps": 5}, 5),
        # ... in epochs, its length depends on the size of the first epochs.
        ("annealed", {"warmup_steps": 0, "warmup_epochs": 3.0}, 3),
        ("infobatch", {"warmup_steps": 0, "warmup_epochs": 3.0}, 12),
    ],
)
def test_the_learning_rate_warms_up_linearly_and_never_again(
    tmp_path, monkeypatch, digits, kind, warm_up, length
):
    rates = tiny.recorded(monkeypatch, lambda run: run.optimizer.param_groups[0]["lr"], before=True)
    plan = {
        "whole": everything(digits),
        # One step an epoch on the coreset, then four.
        "annealed": everything(digits, indices=np.arange(8), epochs=4, annealing_start=0.75),
        "infobatch": InfoBatchPlan(len(digits), prune_ratio=0.9, epochs=4, delta=0.75),
    }[kind]
    run(tmp_path / "run", digits, plan=plan, learning_rate=1e-3, **warm_up)
    np.testing.assert_allclose(rates, np.minimum(np.arange(1, len(rates) + 1) / length, 1) * 1e-3)


def test_training_lowers_the_loss(tmp_path, digits):
    result, _ = run(tmp_path / "run", digits, plan=everything(digits, epochs=15), learning_rate=5e-3)
    assert result.losses[-10:].mean() < 0.8 * result.losses[:5].mean()


def test_another_seed_is_another_run(tmp_path, digits):
    assert run(tmp_path / "a", digits)[1] != run(tmp_path / "b", digits, seed=1)[1]


def test_a_loss_that_is_not_finite_stops_the_run_before_the_next_checkpoint(tmp_path, monkeypatch, digits):
    """The loss is checked later, but the message names its step, and no weights of later steps are kept."""

    def spoil(run):
        if run.step == 4:
            run.parameters[0].data.fill_(torch.nan)

    tiny.on_step(monkeypatch, spoil, before=True)
    told = "loss of the ConditionalUNet is nan at step 4. Lower the learning rate"
    with pytest.raises(DedtError, match=told):
        run(tmp_path / "run", digits, keep=(3, 5))
    assert [path.name for path in (tmp_path / "run").glob("ema-*")] == ["ema-000003.safetensors"]
    assert tiny.step_of(tmp_path / "run" / CHECKPOINT) == 3


# ---- on a device that cannot be read -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "weighted", "infobatch", "dro", "dro eval", "dro element", "mdt"])
def test_steps_read_nothing_from_the_device(kind, digits, monkeypatch):
    """Tensors on the meta device have no values, so code that reads one raises an error."""
    monkeypatch.setitem(loop.OPTIMIZERS, "adam", torch.optim.Adam)  # meta has no fused Adam
    draws = diffusion.torch_generator  # meta has no generators either
    monkeypatch.setattr(diffusion, "torch_generator", lambda *a: draws(*a[:3]))
    model = tiny.mdt(in_channels=1) if kind == "mdt" else tiny.unet()
    plan = everything(digits, weights=np.linspace(1, 2, 30) if kind == "weighted" else None)
    if kind == "infobatch":
        plan = InfoBatchPlan(30, prune_ratio=0.1, epochs=4)
    options = {"dro eval": {"clip": "sample", "scores": "eval"}, "dro element": {"clip": "element"}}
    dro = None
    if "dro" in kind:
        dro = GroupDRO(tiny.unet().to("meta"), digits.class_counts, **options.get(kind, {}))
    task = diffusion._Diffusion(model, digits, plan, tiny.settings(), seed=0, weighting=dro, device="meta")
    run = loop.Run(task)
    for batch in run.start(0):
        run.take_step(batch)
    assert run.step == 4
    with pytest.raises(NotImplementedError, match="meta"):
        run.flush()
