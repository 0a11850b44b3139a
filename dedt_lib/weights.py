"""Weights on disk: the library's own as safetensors, and the files of published networks.

No pickle is opened as such.  The official files are pickles: of those that are fetched the SHA-256 is checked
first, and from all only tensors are read (``weights_only``), so they run no code.  Names on the Hugging Face hub are pinned: the names that the
library itself uses by :data:`PINNED`, every other name from its first use on, in ``hub.lock.json``.
"""

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from .arrays import check_choice
from .errors import DedtError
from .files import at_home, atomic, chosen_folder, fetched, read_json, sha256, write_json

PICKLES = (".bin", ".pt", ".ckpt")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?")
HUB_PATIENCE = 10  # seconds
LOCK = "hub.lock.json"

VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"
PINNED = {
    "stabilityai/sd-vae-ft-mse": (
        "31f26fdeee1355a5c34592e401dd41e45d25a493",
        {VAE_WEIGHTS: "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815"},
    ),
    "stabilityai/sd-vae-ft-ema": (
        "f04b2c4b98319346dad8c65879f680b1997b204a",
        {VAE_WEIGHTS: "32db726da04f06c1b6b14c0043ce115cc87a501482945c5add89a40d838fcb46"},
    ),
    "openai/clip-vit-large-patch14-336": (
        "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        {"pytorch_model.bin": "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801"},
    ),
    "CompVis/stable-diffusion-v1-4": ("133a221b8aa7292a167afc5127cb63fb5005638b", {}),
}
"""Name on the hub -> its pinned commit, and the SHA-256 of files in it.

Commits and digests are those that other public code pins, each in several independent repositories; Stable
Diffusion's is from the tests of huggingface.js.  Its files have no digest here: the commit fixes them and,
from their first use on, the lock file.
"""


def save_weights(module: torch.nn.Module, path: str | Path) -> None:
    """Write a module's parameters and buffers as safetensors."""
    with atomic(path) as file:
        save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, file)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file to a dict of tensors.

    Raises:
        DedtError: The file is missing, damaged or a pickle (``.pt``, ``.ckpt``), which can run code.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise DedtError(f"{path} does not exist.") from None
    except Exception as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04":
            raise _pickle_error(path) from error
        raise DedtError(
            f"{path} is not a readable safetensors file ({error}). Delete it and run again."
        ) from error


def _pickle_error(path):
    return DedtError(
        f"{path} is a pickle, which can run code when it is opened. Convert it to safetensors first."
    )


def refuse_pickles(folder: str | Path) -> None:
    """Raise DedtError if a folder holds weights only as pickles."""
    files = sorted(Path(folder).glob("*"))
    pickles = [file for file in files if file.suffix in PICKLES]
    if pickles and not any(file.suffix == ".safetensors" for file in files):
        raise _pickle_error(pickles[0])


def load_weights(module: torch.nn.Module, path: str | Path) -> torch.nn.Module:
    """Load a safetensors file into ``module``; raises DedtError if names or shapes do not fit."""
    try:
        module.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise DedtError(f"{path} belongs to another network: {error}") from error
    return module


# ---- official files ----------------------------------------------------------------------------------

# The addresses are those that the libraries themselves download from, looked up only when needed.
ADDRESSES: dict[str, Callable[[], str]] = {
    "inceptionv3-imagenet": partial(
        resolve_name, "torchvision.models:Inception_V3_Weights.IMAGENET1K_V1.url"
    ),
    "resnet18-imagenet": partial(resolve_name, "torchvision.models:ResNet18_Weights.IMAGENET1K_V1.url"),
    "clip-rn50-openai": lambda: resolve_name("open_clip.pretrained:get_pretrained_url")("RN50", "openai"),
    "inception-fid": partial(resolve_name, "torch_fidelity.feature_extractor_inceptionv3:URL_INCEPTION_V3"),
}


def official(name: str) -> tuple[str, str]:
    """Address of a published file, and the first hex digits of its SHA-256, which the address contains.

    The digits are a folder of the address (OpenAI, all 64) or a part of the file name (torch.hub).  Raises
    DedtError for an unknown name.
    """
    check_choice("weights", name, ADDRESSES)
    url = ADDRESSES[name]()
    return url, re.findall(r"[-/]([0-9a-f]{8,64})[./]", url)[0]


def weights_folder() -> Path:
    """Folder for published files: ``$DEDT_WEIGHTS``, else ``weights/`` in the project."""
    return chosen_folder("DEDT_WEIGHTS", "weights")


def locate(name: str, path: str | Path = "") -> Path:
    """Path of the file with the weights ``name``; an official file is verified.

    Args:
        name: Name of the weights, one of ADDRESSES.
        path: The user's file, the official one or a ``.safetensors``.  Without it the file is looked for in
            ``weights_folder()`` and in PyTorch's own cache, and otherwise downloaded.

    Returns:
        The path of the file.

    Raises:
        DedtError: The name is unknown, the file is missing or altered, or the download fails.
    """
    url, digits = official(name)
    file = url.rpartition("/")[2]
    places = weights_folder() / file, Path(torch.hub.get_dir()) / "checkpoints" / file
    place = Path(path or next(filter(Path.exists, places), places[0]))
    if path and not place.exists():
        raise DedtError(f"{path} does not exist. It should hold the weights {name}.")
    if path and place.suffix == ".safetensors":
        return place
    hint = "Your own weights must be a .safetensors file."
    return fetched(place, url, digits, "DEDT_WEIGHTS", hint)


def read_official(name: str, path: str | Path = "") -> dict[str, torch.Tensor]:
    """Tensors of the weights ``name``, with the tensor names of their publisher.

    Arguments and errors are those of :func:`locate`.
    """
    file = locate(name, path)
    if file.suffix == ".safetensors":
        return read_tensors(file)
    if name == "clip-rn50-openai":
        with warnings.catch_warnings():  # PyTorch deprecates TorchScript, but OpenAI's file is written in it
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(file, map_location="cpu").state_dict()
    return torch.load(file, map_location="cpu", weights_only=True)


# ---- a network's name by its content ------------------------------------------------------------------


def key_of(network: torch.nn.Module) -> str:
    """Sixteen hex digits that identify a network by its settings and weights.

    The settings are those in its ``config``, if it has one.
    """
    config = getattr(network, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else config
    config = config if isinstance(config, Mapping) else vars(config)
    about_the_file = "transformers_version"  # and whatever begins with an underscore
    settings = {k: v for k, v in config.items() if not k.startswith("_") and k != about_the_file}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    tensors = (
        (name, value) for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)
    )
    for name, value in sorted(tensors):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Published:
    """The local files of a published network.

    Attributes:
        name: Name or folder that was asked for.
        commit: Commit on the hub, None for files that did not come from it.
        folder: Folder of the files.
        files: Path in the folder -> SHA-256, for every file that is read.
    """

    name: str
    commit: str | None
    folder: Path
    files: dict[str, str]

    @property
    def facts(self) -> dict[str, Any]:
        """Name, commit and files for a manifest, JSON-serialisable."""
        return {"name": self.name, "commit": self.commit, "files": self.files}


# ---- the Hugging Face hub ----------------------------------------------------------------------------


def hub_files(where: str | Path, what: str, weights: Sequence[str], config: str = "config.json") -> Published:
    """The file ``config`` and one of the files ``weights`` of a network, downloaded if needed.

    Args:
        where: A folder; or a name on the Hugging Face hub, "owner/name" or "owner/name@revision", see
            :func:`published`.
        what: The network in words, for messages ("the autoencoder").
        weights: Names of files, in order of preference.
        config: Name of the file with the settings.

    Raises:
        DedtError: Files are missing, the weights are only there as pickles that ``weights`` does not name, a
            download fails or was altered, or the content of the name has changed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    choice = " or ".join(weights)

    def fetch(name, revision, local):
        for file in weights:
            try:
                if not local:
                    ask_hub(name, revision, file)
                hf_hub_download(name, file, revision=revision, local_files_only=local)
            except EntryNotFoundError:
                continue
            return Path(hf_hub_download(name, config, revision=revision, local_files_only=local)).parent
        raise OSError(f"the repository has no {' and no '.join(weights)}")

    def used(folder):
        found = [file for file in weights if (folder / file).exists()]
        if not found:
            refuse_pickles(folder)
        missing = [config] * (not (folder / config).exists()) + [choice] * (not found)
        if missing:
            raise DedtError(
                f"{folder} holds no {' and no '.join(missing)}. Put {config} and {choice} of {what} there, "
                "as written by save_pretrained."
            )
        return config, found[0]

    return published(where, what, f"{config} and {choice}", fetch, used)


def read_network(make: Callable[..., Any], files: Published, what: str, **how: Any) -> Any:
    """A network of diffusers or transformers in eval mode, read from its local settings and weights.

    Args:
        make: The ``from_pretrained`` of its class.
        files: Result of :func:`hub_files`, which becomes the network's attribute ``published``.
        what: The network in words.
        how: Further arguments of ``make``.

    Raises:
        DedtError: The files are damaged or belong to different networks.
    """
    config, weights = files.files
    try:
        network, report = make(files.folder, local_files_only=True, output_loading_info=True, **how)
    except Exception as error:
        raise DedtError(
            f"{files.folder} holds no readable {what} ({error}). Download or save its {config} and {weights} "
            "again."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise DedtError(
            f"The weights in {files.folder} do not fit its {config} (missing tensors: {len(missing)}, such as "
            f"{missing[0]}). Download both files together."
        )
    network.published = files
    return network.eval()


def published(
    where: str | Path,
    what: str,
    needs: str,
    fetch: Callable[[str, str, bool], Path],
    used: Callable[[Path], Sequence[str]],
) -> Published:
    """The files of a network in a folder or on the hub.

    A name without a revision is pinned: by PINNED, else by its first use, whose commit and digests are
    recorded in ``hub.lock.json`` in ``weights_folder()``.  Every later use is compared with this record.  The
    same holds for a folder of that name in ``weights_folder()``, which is accepted as it is at first.

    Args:
        where: A folder, or "owner/name" or "owner/name@revision", which is looked for in ``weights_folder()``
            and in the hub's cache, and otherwise downloaded.
        what: The network in words.
        needs: Its files in words.
        fetch: Called with (name, revision, local); returns the folder of the hub's cache with the files,
            which are downloaded unless ``local``.
        used: Called with a folder; returns the files in it that are read.

    Raises:
        DedtError: The files cannot be found or fetched, or their content differs from the first use.
    """
    own, named = at_home(where), weights_folder() / where
    folder, commit = next(filter(Path.is_dir, (own, named)), None), None
    if not folder:
        if not HUB_NAME.fullmatch(str(where)):
            raise DedtError(
                f"{where} does not exist. Give {what} as a folder with {needs}, or as a name on the Hugging "
                "Face hub (owner/name or owner/name@revision)."
            )
        name, revision = _revision(str(where))
        try:
            folder = _from_hub(name, revision, fetch, used)
        except Exception as error:  # the hub's client raises errors of several libraries
            address = name if revision == "main" else f"{name}/tree/{revision}"
            raise DedtError(
                f"There is no folder {where}, and {what} of that name could not be downloaded from the "
                f"Hugging Face hub ({reason(error)}). Run again with a network connection; or download "
                f"{needs} from https://huggingface.co/{address} by other means and put the files into "
                f"{named}, or give their folder."
            ) from error
        commit = folder.name
    found = Published(str(where), commit, folder, {file: sha256(folder / file) for file in used(folder)})
    if folder != own:
        _compare_with_lock(found)
    return found


def ask_hub(name: str, revision: str, file: str) -> Any:
    """Metadata of a file on the hub: its commit_hash and etag.

    Without a network connection the client's downloads would retry for minutes; this asks once.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=HUB_PATIENCE)


def reason(error: Exception) -> str:
    """Message of an error from another library, in one line."""
    cause = error.__cause__ or error
    return next(iter(str(cause).splitlines()), type(cause).__name__).rstrip(".")


def _revision(where):
    """(name, revision) that "owner/name[@revision]" stands for."""
    name, _, given = where.partition("@")
    pinned, _ = PINNED.get(where, (None, {}))
    return name, pinned or _locked().get(where, {}).get("commit") or given or "main"


def _from_hub(name, revision, fetch, used):
    """Folder of a network in the hub's cache; downloaded files are compared with the hub's digests."""
    from huggingface_hub.utils.sha import git_hash

    with contextlib.suppress(Exception):  # cached files need no answer from the hub
        return fetch(name, revision, True)
    folder = fetch(name, revision, False)
    for file in used(folder):
        told, path = ask_hub(name, revision, file), folder / file
        if told.commit_hash != folder.name:
            raise OSError(
                f"the repository changed meanwhile, from commit {folder.name} to {told.commit_hash}"
            )
        # An etag is a SHA-256 or, for small files, the hash of git.
        if told.etag != (git_hash(path.read_bytes()) if len(told.etag) == 40 else sha256(path)):
            path.resolve().unlink()
            raise OSError(f"the downloaded {file} does not match its checksum on the hub")
    return folder


def _locked():
    path = weights_folder() / LOCK
    return read_json(path) if path.exists() else {}


def _compare_with_lock(found):
    """Raise DedtError if the content of a name differs from its record; record what is new."""
    before = _locked().get(found.name, {"commit": found.commit, "files": {}})
    _, pinned = PINNED.get(found.name, (None, {})) if found.commit else (None, {})
    for file, expected in {**pinned, **before["files"]}.items():
        if found.files.get(file, expected) != expected:
            raise DedtError(
                f"{(found.folder / file).resolve()} differs from the file recorded for {found.name}: its "
                f"SHA-256 begins with {found.files[file][:16]}, not with {expected[:16]}. "
                + ("Delete it and run again" if found.commit else "Restore the earlier file")
                + f"; or, to accept the new file, remove {found.name} from {weights_folder() / LOCK}"
                * (file not in pinned)
                + "."
            )
    entry = {"commit": found.commit, "files": {**before["files"], **found.files}}
    if entry != before:
        with contextlib.suppress(OSError):  # a read-only folder keeps the records it has
            weights_folder().mkdir(parents=True, exist_ok=True)
            with FileLock(weights_folder() / f"{LOCK}.lock"):
                write_json(weights_folder() / LOCK, {**_locked(), found.name: entry})
