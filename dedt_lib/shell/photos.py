"""The verbs on photographs that need no recipe: look before choosing, and export files for a trainer."""

from pathlib import Path
from typing import Annotated

from ..errors import DedtError
from ..files import make_folder
from .printing import amount, print_reading, print_table

DROPS = ("bad", "duplicates", "conflicts", "near", "leaks", "blank", "dark", "light", "blurry", "outliers")
Where = Annotated[
    str,
    "your images: a folder (flat, or one subfolder per class, or splits; with metadata.jsonl, .csv or .parquet "
    "or captions in text files if there are), Parquet files, WebDataset tars, a data set that the datasets "
    "library saved or hub:NAME, a list of paths, or a cleaned list of dedt look --drop",
    "DATA",
]
Column = Annotated[
    str, "the column of the classes, if it cannot be told; none: there are no classes", "COLUMN"
]
Caption = Annotated[str, "the column of the captions, if it cannot be told", "COLUMN"]


def look(
    data: Where = "",
    *,
    drop: Annotated[
        str, f"write a cleaned list without these, joined by commas: {', '.join(DROPS)}", "KINDS"
    ] = "",
    out: Annotated[Path, "where look.html and the cleaned list go", "FOLDER"] = Path("."),
    quick: Annotated[bool, "without features, and so without outliers"] = False,
    label: Column = "",
    caption: Caption = "",
    store: Annotated[Path | None, "the store (default: $DEDT_STORE, else runs/)", "FOLDER"] = None,
) -> None:
    """Look at images before anything is chosen: what there is, what is wrong, what it will take.

    Prints counts, sizes, classes, copies, leaks between splits, and images that are blank, dark, blurred or
    unlike all others; writes the same with pictures to look.html, and all names to look.csv.  A cleaned list
    is data for all verbs.

    example:
      dedt look photos
      dedt look photos --drop duplicates,bad,blank --out checked
      dedt select checked/photos.dedt.json --ratio 0.1 --out coreset
    """
    from ..config import load_profile
    from ..data import FILES, detect, lists
    from ..data.listing import UNREADABLE
    from ..pages.look import findings, write_look
    from ..store import Store

    if not data:
        raise DedtError("Say where the images are: dedt look DATA")
    kinds = [kind.strip() for kind in drop.split(",") if kind.strip()]
    if unknown := [kind for kind in kinds if kind not in DROPS]:
        raise DedtError(f"--drop has no {', '.join(unknown)}. Choose of: {', '.join(DROPS)}.")
    if quick and "outliers" in kinds:
        raise DedtError("--quick makes no features, by which outliers are told: leave one of the two out.")
    source = detect(data)
    if source not in FILES:
        raise DedtError(f"{data} holds no image files.")
    cleaned = make_folder(out, "Give --out") / lists.name_of_cleaned(data)
    if kinds:
        lists.check_replaces(cleaned, data)
    for listed in UNREADABLE.values():  # left by an earlier call
        (out / listed).unlink(missing_ok=True)

    from ..stages.lab import Lab

    where = {"data.source": source, "data.path": data, "data.label": label, "data.caption": caption}
    profile = load_profile("photos", **where, **{"data.skip_bad": True})
    found = findings(Lab(profile, store=Store(store), report=out), quick=quick)
    print_reading(found.listing.reading)
    print_table(("", "", ""), found.rows, text=(0, 2))
    write_look(found, out)
    print(f"wrote {out / 'look.html'} and look.csv")
    if kinds:
        why, copy_of = found.dropped(kinds)
        columns = {"label": label, "caption": caption}
        lists.write_cleaned(cleaned, source, data, why, listing=found.listing, copy_of=copy_of, **columns)
        left = len(found.table) - len(why)
        print(f"wrote {cleaned}: {amount(left, 'image')}, without {amount(len(why), 'other')}")


def export(
    coreset: Annotated[Path, "the folder that dedt select --out or reweight --out wrote", "CORESET"] = Path(),
    *,
    to: Annotated[
        str, "list, links, imagefolder, datasets, webdataset, kohya or torch; see below", "FORMAT"
    ] = "",
    out: Annotated[Path | None, "a new folder", "FOLDER"] = None,
    data: Annotated[Path | None, "where the images are now, if they were moved", "DATA"] = None,
) -> None:
    """Write the kept images of a coreset as files that trainers read, with captions and weights.

    list         images.txt, a path a line, and weights.csv
    links        folders of classes with links to the images
    imagefolder  metadata.jsonl for datasets.load_dataset("imagefolder") and diffusers' training scripts
    datasets     for datasets.load_from_disk
    webdataset   tar files
    kohya        folders REPEATS_CLASS, without classes REPEATS_, with captions in text files, which sd-scripts
                 reads with --caption_extension .txt; weights as repeats
    torch        for torchvision's ImageFolder, with weights.npy for a WeightedRandomSampler

    example:
      dedt select photos --ratio 0.1 --out coreset
      dedt export coreset --to imagefolder --out for-training
    """
    from ..data.export import FORMATS
    from ..data.export import export as write

    if not out or to not in FORMATS:
        raise DedtError(
            f"dedt export CORESET --to FORMAT --out FOLDER, with a FORMAT of: {', '.join(FORMATS)}."
        )
    counts = write(coreset, to, out, data)
    if len(counts) > 1:
        print_table(("class", "images"), sorted(counts.items()))
    print(f"wrote {out}: {amount(counts.total(), 'image')}, all that were kept")
