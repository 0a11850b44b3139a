"""The verbs of the method's stages, one function each: they print results and write files into ``--out``.

Each computes what is missing and takes the rest from the store.  With ``out`` None nothing is written.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic, write_json
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


def embed(experiment: "Experiment", out: Out) -> None:
    """Train the encoder, embed all training images, and print their number and the encoder's accuracy.

    example:
      dedt embed --out features
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

    example:
      dedt select --method moderate --ratio 0.1 --out coreset
    """
    coreset = experiment.select()
    kept, total = len(coreset.indices), len(coreset.labels)
    asked = round(coreset.ratio * total)
    rounded = f" ({asked} asked for, but rounded in each class)" * (
        kept != asked and coreset.scope == "class"
    )
    print(f"{kept} of {total} images kept{rounded}")
    counts = zip(coreset.class_names, experiment.lab.class_counts, coreset.counts)
    print_table(("class", "images", "kept"), counts)
    print_doubts(coreset)
    if out:
        coreset.save(out)
        (out / "weights.json").unlink(missing_ok=True)  # of an earlier coreset
        wrote(out, "coreset.parquet", "coreset.json", *report(experiment, coreset, out))


def report(experiment: "Experiment", coreset: "Coreset", out: Path) -> list[str]:
    """Write ``report.html`` about a coreset of photographs; the names of the written files."""
    if not experiment.lab.has_files:
        return []
    from ..pages.report import write_report

    write_report(experiment, coreset, experiment.lab.photos, out)
    return ["report.html"]


def say_how_long(experiment: "Experiment") -> None:
    """Print about how long it takes to look at photographs and embed them, estimated from a few of them."""
    from ..stages.embed import seconds_to_embed

    stage = experiment.coreset.embedding
    if stage and experiment.lab.has_files and (seconds := seconds_to_embed(stage)):
        print(f"about {seconds:.0f} s to inspect and embed the images", flush=True)


def reweight(experiment: "Experiment", out: Out) -> None:
    """Run group DRO on the coreset and print the weight of each class (1 is uniform) and of its images.

    example:
      dedt reweight photos --ratio 0.1 --out coreset
    """
    from ..reweighting import effective_classes

    dro, coreset = experiment.reweight(), experiment.select()
    weights, burn_in = dro["weights"], dro["burn_in"]
    effective = float(effective_classes(weights))
    weighted, K = coreset.with_weights(weights), len(weights)
    of_image = [
        weighted.sample_weights[coreset.indices][coreset.labels[coreset.indices] == k].max() for k in range(K)
    ]
    shown = [[f"{value:.3f}" for value in row] for row in (K * weights, of_image)]
    header = ("class", "kept", "weight", "per image")
    print_table(header, zip(coreset.class_names, coreset.counts, *shown))
    print(f"effective classes: {effective:.2f} of {len(weights)}")
    print(f"proxy: {len(dro['trajectory'])} steps, the first {burn_in} with uniform weights")
    if out:
        facts = {
            "class_names": list(coreset.class_names),
            "class_counts": coreset.counts.tolist(),
            "class_weights": weights.tolist(),
            "effective_classes": effective,
            "burn_in": burn_in,
        }
        write_json(out / "weights.json", facts)
        weighted.save(out)
        wrote(out, "weights.json", "coreset.parquet", "coreset.json", *report(experiment, weighted, out))


def train(experiment: "Experiment", out: Out) -> None:
    """Train the diffusion model of the recipe and print its steps, loss and time.

    For Stable Diffusion, --out holds the whole pipeline, which diffusers loads with from_pretrained.

    example:
      dedt train --ratio 0.1 --reweighting --out model
    """
    from ..weights import save_weights

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

    example:
      dedt sample --ratio 0.1 --out samples
    """
    import numpy as np

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

    For latent models and photographs, KID, precision and recall are measured as well.

    example:
      dedt evaluate --method random --ratio 0.1 --seed 1
    """
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
    cell, recipe = experiment.cell(), experiment.recipe
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
