"""Images in one folder per class."""

import dataclasses
import functools
import os
import stat
from collections import Counter, deque
from pathlib import Path

import numpy as np

from ..errors import DedtError
from .listing import DEFAULT_SIZE, Listing
from .names import (
    FOREIGN,
    HELD_OUT,
    image_suffixes,
    is_hidden,
    is_image,
    legible,
    resembles_split,
    split_of,
    split_words,
)
from .reading import Reading

IMAGE, FOLDER = "image", "folder"
HIDDEN = "hidden"
BESIDE = "beside the class folders"
MOST_NAMES = 12


def load_folder(path, *, split="train", image_size=None, channels=None, store=None, **bad):
    """Images in one folder per class, centre-cropped to a square and resized.

    path: a folder with CLASS/IMAGE, or with train/CLASS/IMAGE and perhaps test/CLASS/IMAGE; splits may have
    any of the names in :mod:`dedt_lib.data.names`, in any case.  Where there are several held-out splits the
    first in the order of that list is taken.  A folder named like a split that holds images directly, beside
    other folders that do, is a class; what could be either is refused.  An image is what Pillow opens; links
    are followed.  Hidden folders and files, and those that systems make, never count.
    image_size: pixels (default 32).  channels: 1 or 3 (default 3).  store: a Store to keep the pixels in.
    bad: what :meth:`Listing.decode` takes.  Transparent pixels are put over white.
    An id is the path below ``path``; a byte in it that is not UTF-8 is written ``\\xNN``.
    Returns LabelledImages, or None for split "test" without a held-out split, or with one of other classes
    (its reading says so).  Raises DedtError that lists the unreadable or truncated files.
    """
    found = find(path, split)
    return found and found.decode(image_size or DEFAULT_SIZE, channels or 3, store, **bad)


def find(path, split="train"):
    """The Listing of a split, or None without a usable held-out one.  Raises DedtError."""
    root = _root(path)
    left_out = Counter()
    children = _folders(root, left_out)
    train, test, spare, notes = _layout(root, children)
    for folder in spare:
        left_out[BESIDE] += sum(1 for _ in _images(folder, left_out, {_identity(root)}))
    found, held_out = _listing(root, train, left_out), None
    if test:
        try:
            held_out = _listing(root, test, Counter(), found.class_names)
        except DedtError as error:
            notes.append(f"no held-out images are used: {error}")
    if split == "test":
        return held_out
    reading = dataclasses.replace(
        found.reading, notes=(*notes, *found.reading.notes), held_out=held_out and held_out.reading
    )
    return dataclasses.replace(found, reading=reading)


def _root(path):
    if not path:
        raise DedtError("data = 'folder' needs a path to a folder with one subfolder of images per class.")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DedtError(
            f"{root} is not a folder. Give the path of a folder with one subfolder of images per class."
        )
    return root


def _listing(root, base, left_out, wanted=None):
    """The Listing of the class folders in ``base``, ids relative to ``root``; classes must be ``wanted``."""
    folders = _folders(base, left_out) if base != root else _folders(root, Counter())
    entered = {_identity(root), _identity(base)}
    images = {folder.name: sorted(_images(folder, left_out, set(entered))) for folder in folders}
    classes = {name: files for name, files in images.items() if files}
    names = tuple(map(legible, classes))
    if not folders:
        raise DedtError(f"{base} has no subfolders: put the images of each class into a folder of its own.")
    if not classes:
        raise DedtError(
            f"{base} holds no images in its subfolders ({', '.join(map(legible, images))}): add some. An "
            "image is a file that Pillow opens, and none of those that are hidden."
        )
    if wanted is not None and names != wanted:
        raise DedtError(
            f"{base} has the classes {', '.join(names[:12])}, but the training images have "
            f"{', '.join(wanted[:12])}: give both the same subfolders."
        )
    empty = [legible(name) for name in images if name not in classes]
    notes = [f"without images, so no class: {', '.join(empty)}"] if empty else []
    files = tuple(file for some in classes.values() for file in some)
    ids = tuple(legible(file.relative_to(root)) for file in files)
    return Listing(
        root=root,
        files=files,
        encoded=functools.partial(zip, ids, files),
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), [len(some) for some in classes.values()]),
        class_names=names,
        ids=ids,
        name=legible(root.resolve().name),
        reading=Reading.of(len(files), left_out, notes),
    )


# ---- which folders are splits, and which are classes ------------------------------------------------


def _layout(root, children):
    """(folder of the training classes, that of the held-out ones or None, folders to leave out, notes)."""
    named = [folder for folder in children if split_of(folder.name) or resembles_split(folder.name)]
    if not named:
        _refuse_splits_below(root, children)
        return root, None, [], _equal_subfolders(children)
    shapes = {folder: shape for folder in children if (shape := _shape(folder))}
    trains = [folder for folder in shapes if split_of(folder.name) == "train"]
    tests = [folder for folder in shapes if split_of(folder.name) == "test"]
    tests.sort(key=lambda folder: (shapes[folder] != "nested", HELD_OUT.index(folder.name.lower())))
    others = [folder for folder in shapes if split_of(folder.name) is None]
    if any(shapes[folder] == "nested" for folder in trains):
        return _split_layout(root, children, trains, tests, others, shapes)
    _refuse_unclear(root, trains, tests, others, shapes)
    _refuse_splits_below(root, children)
    notes = [f"'{f.name}' is a class, because it holds images like its neighbours" for f in (*trains, *tests)]
    return root, None, [], notes


def _split_layout(root, children, trains, tests, others, shapes):
    if len(trains) > 1:
        raise DedtError(f"{root} has two training splits, {_list(trains)}: move one of them away.")
    if others and not tests:
        raise DedtError(
            f"{root} holds {_list(trains)}, which looks like a split because the images lie in its "
            f"subfolders, beside {_list(others)}: are these splits or classes? For the split give the path "
            f"{trains[0]}; for classes put the images of each class directly into its folder, or rename "
            f"{_list(trains)}."
        )
    notes = []
    if tests and shapes[tests[0]] == "nested" and len(tests) > 1:
        notes.append(f"of {_list(tests)} the first is held out, the others are left out")
    if others:
        notes.append(f"beside the splits, so left out: {_list(others)}")
    test = tests[0] if tests else None
    return trains[0], test, [folder for folder in children if folder not in (trains[0], test)], notes


def _refuse_unclear(root, trains, tests, others, shapes):
    exact = [*trains, *tests]
    plain = [folder for folder in others if not resembles_split(folder.name)]
    if not plain and exact and not trains:
        raise DedtError(
            f"{root} holds {_list([*tests, *others])}, held-out images, but no training images: name their "
            "folder train, or give the path of the folder that holds the class folders."
        )
    if not plain and exact:
        raise DedtError(
            f"{root} holds {_list(exact)}, named like splits, but the images lie in them directly: put those "
            "of each class into a folder of its own in the split (train/CLASS/IMAGE), or rename them if they "
            "are classes."
        )
    both = {"train", "test"} <= set().union(*(split_words(folder.name) for folder in others))
    if not plain and (both or any(shapes[folder] == "nested" for folder in others)):
        raise DedtError(
            f"{root} holds {_list(others)}, which look like splits of another name: call them train and test "
            "(or val), with a folder for each class in them, or give the path of the one to use."
        )
    if (trains and tests) or any(shapes[folder] == "nested" for folder in tests):
        raise DedtError(
            f"{root} holds {_list(exact)}, named like splits, beside {_list(others)}: are these splits or "
            "classes? Use train/CLASS/IMAGE and test/CLASS/IMAGE for splits; rename them if they are classes."
        )


def _equal_subfolders(children):
    """A note if all folders have the same subfolders, as splits of a name that nobody knows would."""
    below = {tuple(sorted(folder.name for folder in _folders(child))) for child in children}
    names = below.pop() if len(children) > 1 and len(below) == 1 else ()
    if len(names) < 2:
        return []
    return [
        f"the classes are {_list(children)}, each with the subfolders {_list(map(Path, names))}; if those "
        "are the classes, call the folders around them train and test"
    ]


def _refuse_splits_below(root, children):
    """Splits one level too deep, in a folder around them or in each class, must not be read as one."""
    kinds = {folder: {split_of(below.name) for below in _folders(folder)} for folder in children}
    kinds = {folder: below for folder, below in kinds.items() if below}
    both = [folder for folder, below in kinds.items() if {"train", "test"} <= below]
    if not both and kinds and all(None not in below for below in kinds.values()):
        both = [folder for folder in kinds if _shape(folder)]
    if not both:
        return
    if len(children) == 1:
        raise DedtError(f"{root} holds a data set with splits in its subfolder: give the path {both[0]}.")
    raise DedtError(
        f"{both[0]} has subfolders named like splits; splits come before classes: train/CLASS/IMAGE and "
        "test/CLASS/IMAGE. Move them so, or give the path of one of them."
    )


def _shape(folder):
    """Where most images lie: "nested" in subfolders, "direct" beside them, None if there are none."""
    depths = [file.parent == folder for file in _images(folder, Counter(), {_identity(folder.parent)})]
    return None if not depths else "direct" if 2 * sum(depths) >= len(depths) else "nested"


def _list(folders):
    names = [f"'{legible(folder.name)}'" for folder in folders]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


# ---- what is in a folder ----------------------------------------------------------------------------


def _folders(folder, left_out=None):
    """The visible subfolders, links to folders too, by name; what lies beside them is counted."""
    left_out = Counter() if left_out is None else left_out
    found = []
    for what, path, count in _entries(folder, set()):
        if what == FOLDER:
            found.append(path)
        else:
            left_out[what if what == HIDDEN else BESIDE] += count
    return found


def _images(folder, left_out, entered):
    """Gives the image files at any depth; everything else is counted in ``left_out`` (a Counter).

    entered: the folders above, as :func:`_identity` names them.  A folder is entered once, so that links
    neither lead round in circles nor double a class; folders come before links to them.
    """
    suffixes, todo = image_suffixes(), deque([folder])
    while todo:
        here = todo.popleft()
        if _identity(here) in entered:
            left_out["links to a folder that was entered already"] += 1
            continue
        entered.add(_identity(here))
        for what, path, count in _entries(here, suffixes):
            if what == IMAGE:
                yield path
            elif what != FOLDER:
                left_out[what] += count
            elif path.is_symlink():
                todo.append(path)
            else:
                todo.appendleft(path)


def _entries(folder, suffixes):
    """(what, path, number of files) of each entry of a folder, by name; what: IMAGE, FOLDER or a reason."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DedtError(f"{folder} cannot be read ({error.strerror}): change its permissions.") from error
    for entry in entries:
        path, real_folder = Path(entry.path), entry.is_dir(follow_symlinks=False)
        if is_hidden(entry.name):
            yield HIDDEN, path, sum(len(files) for *_, files in os.walk(path)) if real_folder else 1
        elif real_folder:
            yield FOLDER, path, 1
        elif entry.is_file(follow_symlinks=False):
            yield _kind(path, suffixes), path, 1
        else:
            yield _other(path, suffixes), path, 1


def _other(path, suffixes):
    """What a link leads to; or a pipe, a socket or a device, which must not be opened."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "broken links"
    if stat.S_ISDIR(mode):
        return FOLDER
    return _kind(path, suffixes) if stat.S_ISREG(mode) else "pipes, sockets or devices"


def _kind(path, suffixes):
    if is_image(path, suffixes):
        return IMAGE
    suffix = path.suffix.lower()
    return f"of a kind that Pillow cannot open ({suffix})" if suffix in FOREIGN else "not images"


def _identity(folder):
    state = folder.stat()
    return state.st_dev, state.st_ino
