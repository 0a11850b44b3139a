"""The verbs of the method's stages, one function each: they print results and write files into ``--out``.

Each computes what is missing and takes the rest from the store.  With ``out`` None nothing is written.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DedtError
from ..files import atomic, locked, write_json
from .printing import (
    FEW_CLASSES,
    contact_sheet,
    number,
    print_cell,
    print_doubts,
    print_metrics,
    print_table,
    wrote,
)

if TYPE_CHECKING:
    import numpy as np

    from ..experiment import Experiment
    from ..selection import Coreset

Out = Path | None

OF_A_MODEL = ("model.safetensors", "pipeline", "samples.npy", "samples.png", "metrics.json", "cell.json")
"""Files in ``--out`` that are of a trained model, and so of its coreset."""


def embed(experiment: "Experiment", out: Out) -> None:
    """Train the encoder, embed all training images, and print their number and the encoder's accuracy.

    With --out it writes features.npy and labels.npy.

    example:
      dedt embed photos --out features
    """
    features, (_, manifest) = experiment.embed(), experiment.encoder
    print(f"{len(features)} images, {features.shape[1]} features each, by {manifest['identity']['network']}")
    for split in ("train", "test"):
        if f"{split}_accuracy" in manifest:
            print(f"encoder accuracy, {split}: {manifest[f'{split}_accuracy']:.1%}")
    if out:
        save_array(out / "features.npy", features)
        save_array(out / "labels.npy", experiment.lab.pool.labels)
        wrote(out, "features.npy", "labels.npy")


def select(experiment: "Experiment", out: Out) -> None:
    """Choose the coreset and print its images per class.

    With --out it writes coreset.parquet (a row for each image: kept, score, rank, weight, why), coreset.json
    and, of photographs, report.html.  Without --scope the profile decides: photos ranks all images together,
    digits those of each class.

    example:
      dedt select photos --ratio 0.1 --out coreset
      dedt select photos --method gaussian --scope class --ratio 0.1 --out coreset
    """
    check_choice(experiment, out, replaces=True)
    coreset = experiment.select()
    kept, total = len(coreset.indices), len(coreset.labels)
    asked = round(coreset.ratio * total)
    where = {"class": "in each class", "global": "at both ends of the band"}[coreset.scope]
    rounded = f" ({asked} asked for, but rounded {where})" * (kept != asked)
    print(f"{kept} of {total} images kept{rounded}")
    counts = zip(coreset.class_names, experiment.lab.class_counts, coreset.counts)
    print_table(("class", "images", "kept"), counts)
    print_doubts(coreset)
    if out:
        write_choice(experiment, coreset, out)


def check_choice(experiment: "Experiment", out: Out, *, replaces: bool = False, learns: bool = False) -> None:
    """Raise DedtError if ``out`` holds another coreset than the recipe's, or one with other class weights.

    With ``replaces`` that is an error only if there are results of a model too, which would then be of no
    coreset in the folder.  ``learns`` says that class weights are about to be written.
    """
    from ..selection import Coreset

    if not out or not (out / "coreset.json").exists():
        return
    chooses, there = experiment.recipe.has_coreset, [name for name in OF_A_MODEL if (out / name).exists()]
    if replaces and chooses and not there:
        return
    held = Coreset.load(out)
    if not chooses or not held.keeps_as(experiment.select()):
        raise DedtError(
            f"{out} holds results of another coreset ({', '.join(there or ['coreset.json'])}): give --out another "
            "folder, or delete them."
        )
    if not experiment.recipe.reweighting and (held.weights is None) == learns:
        raise DedtError(
            f"{out} holds a model that was trained without class weights: give --out another folder."
            if learns
            else f"{out} holds a coreset with class weights: add --reweighting, or give --out another folder."
        )


def write_choice(
    experiment: "Experiment", coreset: "Coreset", out: Path, facts: dict[str, Any] | None = None
) -> None:
    """Write a coreset, with the ``facts`` of its weights if it has any, and of photographs its report."""
    names, lock = ["coreset.parquet", "coreset.json"], out / ".writing"
    with locked(lock, f"the folder {out}"):
        try:
            coreset.save(out)
            for name in ("report.html", "weights.json"):  # of an earlier coreset
                (out / name).unlink(missing_ok=True)
            if facts:
                write_json(out / "weights.json", facts)
                names.insert(0, "weights.json")
            if experiment.lab.has_files:
                from ..pages.report import write_report

                write_report(experiment, coreset, experiment.lab.photos, out)
                names.append("report.html")
        finally:
            Path(f"{lock}.lock").unlink(missing_ok=True)
    wrote(out, *names)


def say_how_long(experiment: "Experiment") -> None:
    """Print about how long it takes to look at photographs and embed them, estimated from a few of them."""
    from ..stages.embed import seconds_to_embed

    stage = experiment.coreset.embedding
    if stage and experiment.lab.has_files and (seconds := seconds_to_embed(stage)):
        print(f"about {seconds:.0f} s to inspect and embed the images", flush=True)


def reweight(experiment: "Experiment", out: Out) -> None:
    """Run group DRO on the coreset and print the weight of each class (1 is uniform) and of its images.

    It trains a model on all the images and another on the coreset: --dry-run says how long.  With --out it
    writes weights.json and the files of dedt select, with the weights.

    example:
      dedt reweight photos --ratio 0.1 --out coreset
    """
    from ..data.names import few
    from ..reweighting import effective_classes
    from ..stages.needs import seldom_seen

    check_choice(experiment, out, replaces=True, learns=True)
    dro, coreset = experiment.reweight(), experiment.select()
    weights, burn_in = dro["weights"], dro["burn_in"]
    effective, weighted = float(effective_classes(weights)), coreset.with_weights(weights)
    shown = [[f"{value:.3f}" for value in row] for row in (len(weights) * weights, weighted.image_weights)]
    header = ("class", "kept", "weight", "per image")
    print_table(header, zip(coreset.class_names, coreset.counts, *shown))
    print(f"effective classes: {effective:.2f} of {len(weights)}")
    print(f"proxy: {len(dro['trajectory'])} steps, the first {burn_in} with uniform weights")
    if seldom := seldom_seen(coreset.counts, coreset.class_names, experiment.settings.batch_size):
        print(
            f"warning: most batches of the proxy have no image of {few(seldom, FEW_CLASSES)}; in their other "
            "steps reweight.absent decides, so compare its two values before you rely on their weights"
        )
    if out:
        facts = {
            "class_names": list(coreset.class_names),
            "class_counts": coreset.counts.tolist(),
            "class_weights": weights.tolist(),
            "effective_classes": effective,
            "burn_in": burn_in,
        }
        write_choice(experiment, weighted, out, facts)


def train(experiment: "Experiment", out: Out) -> None:
    """Train the diffusion model of the recipe and print its steps, loss and time.

    With --out it writes model.safetensors.  For Stable Diffusion, --out holds the whole pipeline, which
    diffusers loads with from_pretrained.

    example:
      dedt train --ratio 0.1 --reweighting --out model
    """
    from ..weights import save_weights

    check_choice(experiment, out)
    model, training = experiment.train(), experiment.training()
    recipe, losses, steps = experiment.recipe, training["losses"], training["steps"]
    if recipe.early_stopping:
        steps = experiment.steps_at(recipe.ratio, recipe.annealing)
        print(f"the weights after {steps} of the {training['steps']} steps of the run on all the data")
    last = losses[:steps][-100:]
    print(f"steps: {steps}, final loss: {last.mean():.4f} (mean of the last {len(last)})")
    print(f"parameters: {sum(p.numel() for p in model.parameters()):,}")
    print(f"run: {training['key']}, {training['training_seconds']:.0f} s on {training['device']}")
    if out and recipe.model == "stable-diffusion":
        experiment.save_pipeline(out / "pipeline")
        wrote(out, "pipeline")
    elif out:
        save_weights(model, out / "model.safetensors")
        wrote(out, "model.safetensors")


def sample(experiment: "Experiment", out: Out) -> None:
    """Draw samples from the trained model, with the classes in the shares of the training images.

    With --out it writes samples.npy, sample_labels.npy and samples.png.

    example:
      dedt sample --ratio 0.1 --out samples
    """
    import numpy as np

    check_choice(experiment, out)
    images, labels, names = experiment.sample(), experiment.sample_labels(), experiment.lab.class_names
    print(f"{len(images)} samples of shape {' x '.join(map(str, images.shape[1:]))}")
    counts = zip(names, np.bincount(labels, minlength=len(names)))
    known = ", ".join(f"{name} ({count})" for name, count in counts) if len(names) <= FEW_CLASSES else ""
    print(f"classes in the shares of the training images{': ' * bool(known)}{known}")
    if out:
        save_array(out / "samples.npy", images)
        save_array(out / "sample_labels.npy", labels)
        with atomic(out / "samples.png") as partial:
            contact_sheet(images, labels, len(names)).save(partial, format="PNG")
        wrote(out, "samples.npy", "sample_labels.npy", "samples.png")


def evaluate(experiment: "Experiment", out: Out) -> None:
    """Measure FID, class-wise FID and near-copies.

    For latent models and photographs, KID, precision and recall are measured as well.  With --out it writes
    metrics.json.

    example:
      dedt evaluate --method random --ratio 0.1 --seed 1
    """
    check_choice(experiment, out)
    metrics, floor = experiment.evaluate(), experiment.floor()
    if experiment.compared:
        metrics |= experiment.compare()
    print_metrics(metrics, floor)
    values = (map(number, metrics["classwise"]), map(number, floor["classwise"]))
    if metrics["classwise"]:
        print_table(("class", "FID", "real halves"), zip(experiment.lab.class_names, *values))
    if out:
        write_json(out / "metrics.json", {**metrics, "floor": floor})
        wrote(out, "metrics.json")


def run(experiment: "Experiment", out: Out) -> None:
    """All stages; prints the main numbers and, with --out, writes the files of every stage."""
    check_choice(experiment, out, replaces=True)
    recipe = experiment.recipe
    if recipe.has_coreset:
        experiment.check("select")  # a model of all the images does not read the coreset, but --out holds it
    cell = experiment.cell()
    print_cell(cell)
    if not out:
        return
    selecting = [*([embed] if experiment.coreset.embedding else []), select] if recipe.has_coreset else []
    for stage in (*selecting, *[reweight] * recipe.reweighting, train, sample, evaluate):
        print(f"\n{stage.__name__}")
        stage(experiment, out)
    write_json(out / "cell.json", cell)
    wrote(out, "cell.json")


def save_array(path: Path, array: "np.ndarray") -> None:
    """Write an array as ``.npy``, complete or not at all."""
    import numpy as np

    with atomic(path) as partial, open(partial, "wb") as file:
        np.save(file, array)
