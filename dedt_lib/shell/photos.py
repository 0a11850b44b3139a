"""The verbs on photographs that need no recipe: look before choosing, and export files for a trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from ..errors import DedtError
from ..files import make_folder
from .printing import amount, print_reading, print_table

DROPS = ("bad", "duplicates", "conflicts", "near", "leaks", "blank", "dark", "light", "blurry", "outliers")
Where = Annotated[
    str,
    "your images: a folder (flat, one subfolder per class, or splits; optionally with metadata.jsonl, .csv "
    "or .parquet, or captions in text files), Parquet files, WebDataset tars, a data set saved by the "
    "datasets library, hub:NAME, a list of paths, or a cleaned list from dedt look --drop",
    "DATA",
]
Column = Annotated[
    str, "column with the classes, if it is not found automatically; none for no classes", "COLUMN"
]
Caption = Annotated[str, "column with the captions, if it is not found automatically", "COLUMN"]
Kept = Annotated[Path | None, "the store of all results (default: $DEDT_STORE, else runs/)", "FOLDER"]


def look(
    data: Where = "",
    *,
    drop: Annotated[
        Sequence[str],
        f"write a cleaned list without these kinds, separated by commas: {', '.join(DROPS)}",
        "KINDS",
    ] = (),
    out: Annotated[Path, "folder for look.html, look.csv and the cleaned list", "FOLDER"] = Path("."),
    quick: Annotated[bool, "compute no features, and so find no outliers"] = False,
    label: Column = "",
    caption: Caption = "",
    store: Kept = None,
) -> None:
    """Inspect images before a coreset is chosen: what there is, what is wrong, what a run will take.

    Prints counts, sizes, classes, copies, leaks between splits, and images that are blank, dark, blurred or
    unlike all others; writes the same with pictures to look.html, and all names to look.csv.  All verbs
    accept a cleaned list in place of a folder.

    example:
      dedt look photos
      dedt look photos --drop duplicates,bad,blank --out checked
      dedt select checked/photos.dedt.json --ratio 0.1 --out coreset
    """
    from ..config import load_profile
    from ..data import detect, lists
    from ..data.listing import UNREADABLE
    from ..pages.look import findings, write_look
    from ..store import Store

    if not data:
        raise DedtError("Give the path of the images: dedt look DATA")
    kinds = [kind.strip() for kind in ",".join(drop).split(",") if kind.strip()]
    if unknown := [kind for kind in kinds if kind not in DROPS]:
        raise DedtError(f"Unknown kinds in --drop: {', '.join(unknown)}. Choose from: {', '.join(DROPS)}.")
    if quick and "outliers" in kinds:
        raise DedtError("--quick computes no features, which --drop outliers needs. Leave one of them out.")
    source = detect(data)
    cleaned = make_folder(out, "Give --out") / lists.name_of_cleaned(data)
    if kinds:
        lists.check_replaces(cleaned, data)
    for listed in UNREADABLE.values():  # left by an earlier call
        (out / listed).unlink(missing_ok=True)

    from ..stages.lab import Lab

    where = {"data.source": source, "data.path": data, "data.label": label, "data.caption": caption}
    profile = load_profile("photos", **where, **{"data.skip_bad": True})
    found = findings(Lab(profile, store=Store(store), report=out), quick=quick)
    print_reading(found.reading)
    print_table(("", "", ""), found.rows, text=(0, 2))
    write_look(found, out)
    bad = ", unreadable.dedt.txt" * bool(len(found.places["bad"]))
    print(f"wrote {out / 'look.html'}{bad} and look.csv")
    if kinds:
        why, copy_of = found.dropped(kinds)
        columns = {"label": label, "caption": caption}
        lists.write_cleaned(cleaned, source, data, why, listing=found.listing, copy_of=copy_of, **columns)
        left = len(found.table) - len(why)
        print(f"wrote {cleaned}: {amount(left, 'image')}, {len(why):,} left out")


def export(
    coreset: Annotated[
        Path, "folder written by dedt select --out or dedt reweight --out", "CORESET"
    ] = Path(),
    *,
    to: Annotated[
        str, "list, links, imagefolder, datasets, webdataset, kohya or torch; see above", "FORMAT"
    ] = "",
    out: Annotated[Path | None, "a new or empty folder", "FOLDER"] = None,
    data: Annotated[Path | None, "where the images are now, if they were moved", "DATA"] = None,
) -> None:
    """Write the kept images of a coreset in a format that trainers read, with captions and weights.

    list         images.txt with one path per line, and weights.csv
    links        one folder per class, with links to the images
    imagefolder  metadata.jsonl for datasets.load_dataset("imagefolder") and diffusers' training scripts
    datasets     for datasets.load_from_disk
    webdataset   tar files
    kohya        folders REPEATS_CLASS (REPEATS_ without classes) with captions in text files, which
                 sd-scripts reads with --caption_extension .txt; weights become repeats
    torch        for torchvision's ImageFolder, with weights.npy for a WeightedRandomSampler

    example:
      dedt select photos --ratio 0.1 --out coreset
      dedt export coreset --to imagefolder --out for-training
    """
    from ..data.export import FORMATS
    from ..data.export import export as write

    if not out or to not in FORMATS:
        raise DedtError(
            "Give a format and a folder: dedt export CORESET --to FORMAT --out FOLDER. "
            f"The formats are: {', '.join(FORMATS)}."
        )
    counts = write(coreset, to, out, data)
    if len(counts) > 1:
        print_table(("class", "images"), sorted(counts.items()))
    print(f"wrote {out}: {amount(counts.total(), 'image')}, the whole coreset")
