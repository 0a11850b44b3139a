"""Images in one folder per class, or all in one folder without classes."""

import functools
import itertools
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import DedtError
from . import parquet
from .columns import NONE
from .listing import Files, Listing, of_split, root_of
from .names import (
    ARCHIVES,
    FOREIGN,
    HELD_OUT,
    METADATA,
    SOURCE_OF,
    composed,
    few,
    image_suffixes,
    is_hidden,
    is_image,
    is_misnamed,
    legible,
    resembles_split,
    split_of,
    split_words,
)
from .reading import Reading
from .texts import caption_of, read_bytes, unused_notes

CAPTION_FILES = (".txt", ".caption", ".TXT")
IMAGE, FOLDER, HIDDEN, BESIDE = "image", "folder", "hidden", "beside the class folders"
IMAGES_BESIDE = f"images {BESIDE}"
MASKS = re.compile("mask|segment|annotat|ground.?truth|depth", re.IGNORECASE)
AROUND = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "jpg", "jpeg", "png", "webp")
"""Names of a folder around all images, in lower case, which are not those of a class."""
LISTS = (".csv", ".tsv", ".jsonl")
OTHER_SOURCES = (".tar", ".parquet", *ARCHIVES)
"""Suffixes of files that may contain images; they are not read if there are also plain image files."""


def find(path: str | Path | None, split: str = "train", *, label: str = "") -> Listing | None:
    r"""Find the images of a split, in one folder per class or in folders without classes, undecoded.

    An image is any file that Pillow opens; links are followed.  Hidden files and folders, and those that
    operating systems create, are left out.  An id is the path of an image relative to ``path``; a byte in it
    that is not UTF-8 is written ``\xNN``.

    Args:
        path: a folder with CLASS/IMAGE, or with train/CLASS/IMAGE and perhaps test/CLASS/IMAGE.  Without
            class folders the images have no classes.  Splits may have any of the names in
            :mod:`dedt_lib.data.names`, in any case; of several held-out splits, the first in that order is
            used.  A folder named like a split is a class if it holds images directly, as its neighbours do;
            an ambiguous layout is refused.  A text file (.txt, .caption) beside an image, with the same name,
            is its caption.
        split: "train" or "test".
        label: "none" to ignore the class folders.

    Returns:
        The Listing; None for "test" if there is no held-out split or its classes differ (the reading of the
        training images says so).

    Raises:
        DedtError: if there are no images, or if it is unclear which folders are splits and which classes.
    """
    known = f"or of a file ({', '.join(SOURCE_OF)})"
    root = root_of(path, "folder", f"a folder of images, of a folder with one subfolder per class, {known}")
    left_out: Counter[str] = Counter()
    children = subfolders(root, Counter())
    train, test, spare, notes = (
        _layout(root, children) if hold_images(children, [root]) else (root, None, [], [])
    )
    for folder in spare:
        left_out[BESIDE] += sum(1 for _ in images_below(folder, left_out, [root]))
    if train != root:
        subfolders(root, left_out)
    within = (f for f in subfolders(train, Counter()) if hold_images([f], [root, train]))
    holding = [*itertools.islice(within, 2)]  # whether there are more does not matter
    around = label != NONE and _are_around(holding)
    flat = label == NONE or not holding or around
    notes = [] if flat and train == root else notes  # these notes are about classes
    notes += [f"'{f.name}' holds all images, so it is not used as a class" for f in holding if around]
    found = _flat(root, train, left_out) if flat else _listing(root, train, left_out)
    if left_out[IMAGES_BESIDE] > len(found.ids):
        apart = f", or use --label {NONE} to read all images without classes" * (train == root)
        raise DedtError(
            f"{root} holds {left_out[IMAGES_BESIDE]:,} images beside its folders and only {len(found.ids):,} "
            f"in them, and only those in folders would be used: move one of the two groups away{apart}."
        )
    if train != root and len(holding) == 1 and not flat:
        notes = [*notes, *_doubts(holding)]
    lists = (name for name in os.listdir(root) if name.lower().endswith(LISTS) and not is_hidden(name))
    if others := [*_other_sources(root), *sorted(set(lists) - {"look.csv"})]:
        notes = [*notes, f"not read, because the folder also holds images: {few(map(legible, others))}"]

    if tables := [f.relative_to(root) for below in subfolders(train, Counter()) for f in _tables(below)]:
        whole = "only a table of all images, beside the folders, is read"
        notes = [*notes, f"not read: {few(map(legible, tables))}; {whole}"]

    def held_out():
        if not test:
            return None
        return _flat(root, test, Counter()) if flat else _listing(root, test, Counter(), found.class_names)

    return of_split(split, lambda: found, held_out, notes)


def hold_images(folders: Iterable[Path], above: Iterable[Path] = ()) -> bool:
    """Whether any of the folders holds an image, at any depth; those in ``above`` are not entered again."""
    return any(True for folder in folders for _ in images_below(folder, Counter(), above))


def _are_around(holding):
    """Whether the only folder with images is around all of them, as in train/images beside train/labels."""
    named = len(holding) == 1 and holding[0].name.lower() in AROUND
    return named and not hold_images(subfolders(holding[0], Counter()), holding)


def _other_sources(root):
    """Names of the files in a folder, or in its usual subfolders, that another source would have to read."""
    folders = filter(os.path.isdir, (root / name for name in parquet.SUBFOLDERS))
    names = (str(file.relative_to(root)) for folder in folders for file in folder.iterdir())
    return sorted(name for name in names if name.lower().endswith(OTHER_SOURCES) and not is_hidden(name))


def _tables(folder):
    return filter(Path.is_file, map(folder.joinpath, METADATA))


def _flat(root, base, left_out):
    """The Listing of all images in ``base``, without classes."""
    files = tuple(sorted(images_below(base, left_out)))
    if not files:
        others = _other_sources(base)
        told = (
            f" The folder holds {few(map(legible, others))}: unpack archives first, or give the path of a "
            ".tar or .parquet file."
        )
        raise DedtError(
            f"{base} holds no images: add some. An image is a file that Pillow opens; hidden files are "
            "ignored." + told * bool(others)
        )
    return _of_files(root, files, np.zeros(len(files), dtype=np.int64), (), left_out, ["no classes"])


def _listing(root, base, left_out, wanted=None):
    """The Listing of the class folders in ``base``, with ids relative to ``root``.

    Raises DedtError if the classes differ from ``wanted``.
    """
    folders, images = subfolders(base, left_out), {}
    for folder in folders:  # two folders may spell one name in two Unicode forms
        images.setdefault(composed(legible(folder.name)), []).extend(
            sorted(images_below(folder, left_out, [root, base]))
        )
    classes = {name: images[name] for name in sorted(images) if images[name]}
    names = tuple(classes)
    if wanted and names != wanted:
        own = f"the classes {few(names)}" if names else "no class folders with images"
        raise DedtError(
            f"{base} has {own}, but the training images have the classes {few(wanted)}: give both folders "
            "the same subfolders."
        )
    empty = [name for name in images if name not in classes]
    files = tuple(file for some in classes.values() for file in some)
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(some) for some in classes.values()])
    notes = [f"folders without images, not used as classes: {few(empty)}"] * bool(empty)
    notes += ["folders whose names differ only in how accents are encoded count as one class"] * (
        len(images) < len(folders)
    )
    return _of_files(root, files, labels, names, left_out, notes)


def _of_files(root, files, labels, names, left_out, notes):
    """The Listing of image files, with the captions in text files beside them."""
    ids = tuple(legible(file.relative_to(root)) for file in files)
    # A name that is too long for a caption file raises in Path.is_file before Python 3.14.
    beside = [next(filter(os.path.isfile, _caption_files(file)), None) for file in files]
    unused = defaultdict[str, list[str]](list)
    texts = {
        file: caption_of(read_bytes(file), legible(file.relative_to(root)), unused)
        for file in filter(None, beside)
    }
    captions = tuple(texts.get(file) or "" for file in beside)
    there, said = sum(text is not None for text in texts.values()), sum(map(bool, texts.values()))
    if there:
        left_out["not images"] -= there
        notes = [*notes, *[f"{said:,} captions in text files beside the images"] * (said > 0)]
        notes += [f"{there - said:,} empty text files beside images"] * (there > said)
    return Listing(
        root=root,
        files=Files(files),
        encoded=functools.partial(zip, ids, files),
        labels=labels,
        class_names=names,
        ids=ids,
        name=legible(root.resolve().name),
        reading=Reading.of(len(files), left_out, [*notes, *unused_notes(unused)]),
        captions=captions if there else (),
    )


def _caption_files(image):
    """Possible caption files of an image: a.png.txt, as some downloaders write it, or a.txt and the like."""
    return [image.with_name(f"{image.name}.txt"), *map(image.with_suffix, CAPTION_FILES)]


# ---- which folders are splits, and which are classes ------------------------------------------------


def _layout(root, children):
    """(folder of the training images, that of the held-out images or None, folders to leave out, notes)."""
    if not any(resembles_split(folder.name) for folder in children):
        _refuse_splits_below(root, children)
        return root, None, [], _doubts(children)
    shapes = {folder: shape for folder in children if (shape := _shape(folder))}
    trains, tests, others = (
        [folder for folder in shapes if split_of(folder.name) == kind] for kind in ("train", "test", None)
    )
    tests.sort(key=lambda folder: (shapes[folder] != "nested", HELD_OUT.index(folder.name.lower())))

    def nested(folders):
        return any(shapes[folder] == "nested" for folder in folders)

    if len(trains) == 1 and (not others or (tests and nested(trains))):
        train, test = trains[0], next(iter(tests), None)
        notes = [f"folders beside the splits, left out: {_list(others)}"] * bool(others)
        if len(tests) > 1:
            notes.append(f"held-out split: the first of {_list(tests)}; the others are left out")
        return train, test, [folder for folder in children if folder not in (train, test)], notes

    exact, plain = [*trains, *tests], [folder for folder in others if not resembles_split(folder.name)]
    if exact:
        are_classes = plain and not nested(exact) and not (trains and tests)
    else:
        words = set().union(*(split_words(folder.name) for folder in others))
        are_classes = plain or not (nested(others) or {"train", "test"} <= words)
    if not are_classes:
        raise DedtError(
            f"{root} holds {_list(shapes)}, which may be splits or classes. For splits, use "
            "train/CLASS/IMAGE and test/CLASS/IMAGE, or give the path of one split; for classes, put the "
            "images directly into the folder of their class, or rename the folders."
        )
    _refuse_splits_below(root, children)
    notes = [
        f"'{folder.name}' is a class, because it holds images like the other folders" for folder in exact
    ]
    return root, None, [], notes


def _doubts(children):
    """A note if the classes may lie one level deeper: in the only folder, or in every folder as in splits."""
    used = [folder for folder in children if hold_images([folder], [folder.parent])]
    inner = [f for f in subfolders(used[0], Counter()) if hold_images([f], used)] if len(used) == 1 else []
    if len(used) == 1 and len(inner) < 2:
        return [f"the only class is {_list(used)}; --label {NONE} is for images without classes"]
    if len(inner) > 1:
        return [
            f"the only class is {_list(used)}, with the subfolders {_list(inner)}; if the subfolders are the "
            f"classes, give the path {legible(used[0])}"
        ]
    below = {tuple(folder.name for folder in subfolders(child, Counter())) for child in children}
    names = below.pop() if len(children) > 1 and len(below) == 1 else ()
    if len(names) > 1:
        return [
            f"the classes are {_list(children)}, each with the subfolders {_list(map(Path, names))}; if the "
            "subfolders are the classes, rename the folders around them to train and test"
        ]
    parents = [
        f for f in used if any(hold_images([inner], [f.parent, f]) for inner in subfolders(f, Counter()))
    ]
    masks = [f for f in used if MASKS.search(f.name)]
    notes = [f"{_list(masks)} may hold masks and not photographs; they are used as classes"] * bool(masks)
    return [*notes, *[f"subfolders are part of their class in {_list(parents)}"] * bool(parents)]


def _refuse_splits_below(root, children):
    """Raise DedtError if splits lie one level too deep: in one folder around them, or in each class."""
    kinds = {folder: {split_of(f.name) for f in subfolders(folder, Counter())} for folder in children}
    kinds = {folder: below for folder, below in kinds.items() if below}
    both = [folder for folder, below in kinds.items() if {"train", "test"} <= below]
    if not both and all(None not in below for below in kinds.values()):
        both = [folder for folder in kinds if _shape(folder)]
    if both and len(children) == 1:
        raise DedtError(f"The subfolder of {root} holds a data set with splits: give the path {both[0]}.")
    if both:
        raise DedtError(
            f"{both[0]} has subfolders named like splits, but splits come before classes. Arrange the images "
            "as train/CLASS/IMAGE and test/CLASS/IMAGE, or give the path of one split."
        )


def _shape(folder):
    """Return "nested" if most images lie in subfolders, "direct" if not, None without images."""
    depths = [file.parent == folder for file in images_below(folder, Counter(), [folder.parent])]
    return None if not depths else "direct" if 2 * sum(depths) >= len(depths) else "nested"


def _list(folders):
    return few(f"'{legible(folder.name)}'" for folder in folders)


# ---- what is in a folder ----------------------------------------------------------------------------


def subfolders(folder: Path, left_out: Counter[str]) -> list[Path]:
    """The visible subfolders by name, including links to folders; the rest is counted in ``left_out``."""
    found, others = [], Counter[str]()
    for what, path in _entries(folder, others, image_suffixes()):
        if what == FOLDER:
            found.append(path)
        else:
            left_out[IMAGES_BESIDE] += 1
    left_out[HIDDEN] += others.pop(HIDDEN, 0)
    left_out[BESIDE] += others.total()
    return found


def images_below(folder: Path, left_out: Counter[str], above: Iterable[Path] = ()) -> Iterator[Path]:
    """The image files in a folder, at any depth; other files are counted in ``left_out``.

    Each folder is entered only once, and those in ``above`` never, so that links cannot form a cycle or
    duplicate a class.  Folders are entered before links to them.
    """
    suffixes, todo, entered = image_suffixes(), deque([folder]), set(map(_identity, above))
    while todo:
        here = todo.popleft()
        if _identity(here) in entered:
            left_out["links to a folder that was already read"] += 1
            continue
        entered.add(_identity(here))
        for what, path in _entries(here, left_out, suffixes):
            if what == IMAGE:
                yield path
            elif path.is_symlink():
                todo.append(path)
            else:
                todo.appendleft(path)


def _entries(folder, left_out, suffixes):
    """(FOLDER or IMAGE, path) of each subfolder and image by name; the rest is counted in ``left_out``."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DedtError(f"{folder} cannot be read ({error.strerror}): change its permissions.") from error
    for entry in entries:
        if is_hidden(entry.name):
            whole = entry.is_dir(follow_symlinks=False)
            left_out[HIDDEN] += sum(len(files) for *_, files in os.walk(entry)) if whole else 1
        elif (what := _kind(entry, suffixes)) in (IMAGE, FOLDER):
            yield what, Path(entry.path)
        else:
            left_out[what] += 1


def _kind(entry, suffixes):
    """IMAGE, FOLDER, or the reason why an entry is neither."""
    link = entry.is_symlink()  # DirEntry.is_dir would raise for a link to itself
    if os.path.isdir(entry) if link else entry.is_dir():
        return FOLDER
    if not (os.path.isfile(entry) if link else entry.is_file()):  # opening a pipe would block
        return "pipes, sockets or devices" if os.path.exists(entry) else "broken links"
    path = Path(entry)
    if is_image(path, suffixes):
        return IMAGE
    suffix = path.suffix.lower()
    if suffix in FOREIGN:
        return f"of a format that Pillow cannot open ({suffix})"
    return f"images with an unknown suffix, rename these ({suffix})" if is_misnamed(path) else "not images"


def _identity(folder):
    state = folder.stat()
    return state.st_dev, state.st_ino
