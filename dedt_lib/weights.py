"""Weights on disk: the library's own as safetensors, and the files of published networks.

No pickle is ever opened on trust.  The official files are pickles, so their SHA-256 is checked first, and
even then only tensors are read from them.  What a name on the Hugging Face hub stands for is pinned: the
names that the library itself uses by :data:`PINNED`, every other one from its first use on, in
``hub.lock.json``.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .errors import DedtError
from .store import atomic, project_root, read_json, sha256, write_json

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
"""Name on the hub -> the commit that it stands for, and the SHA-256 of files in it.

Commits and digests as other public code pins them, each in several repositories that do not copy each other;
Stable Diffusion's as the tests of huggingface.js do.  Its files have no digest here: the commit decides them,
and from their first use on the lock file does.
"""


def save_weights(module, path):
    """Write a module's parameters and buffers as safetensors."""
    with atomic(path) as partial:
        save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, partial)


def read_tensors(path):
    """Read a safetensors file to a dict of tensors.

    Raises DedtError for a missing or damaged file and for a pickle (``.pt``, ``.ckpt``), which this
    library never opens because a pickle can run code.
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


def refuse_pickles(folder):
    """Raise DedtError for a folder that holds weights as pickles only."""
    files = sorted(Path(folder).glob("*"))
    pickles = [file for file in files if file.suffix in PICKLES]
    if pickles and not any(file.suffix == ".safetensors" for file in files):
        raise _pickle_error(pickles[0])


def load_weights(module, path):
    """Fill ``module`` from a safetensors file; raises DedtError when names or shapes do not fit."""
    try:
        module.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise DedtError(f"{path} belongs to another network: {error}") from error
    return module


@dataclass(frozen=True)
class OfficialFile:
    """A published file: its name, its address, and the hex digits that its SHA-256 begins with."""

    name: str
    url: str
    sha256: str

    @classmethod
    def at(cls, url):
        """From an address that carries the hash: as a folder (OpenAI, all of it) or in the name
        (torch.hub).
        """
        name = url.rsplit("/", 1)[-1]
        digits = re.search(r"/([0-9a-f]{64})/", url) or re.search(r"-([0-9a-f]{8,})\.", name)
        return cls(name, url, digits[1])


def _inceptionv3_imagenet():
    from torchvision.models import Inception_V3_Weights

    return Inception_V3_Weights.IMAGENET1K_V1.url


def _resnet18_imagenet():
    from torchvision.models import ResNet18_Weights

    return ResNet18_Weights.IMAGENET1K_V1.url


def _clip_rn50_openai():
    from open_clip.pretrained import get_pretrained_url

    return get_pretrained_url("RN50", "openai")


def _inception_fid():
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return URL_INCEPTION_V3


# The addresses are those that the libraries themselves download from; they are asked only when needed.
ADDRESSES = {
    "inceptionv3-imagenet": _inceptionv3_imagenet,
    "resnet18-imagenet": _resnet18_imagenet,
    "clip-rn50-openai": _clip_rn50_openai,
    "inception-fid": _inception_fid,
}


def official(name):
    """The :class:`OfficialFile` of a published network; raises DedtError for an unknown one."""
    if name not in ADDRESSES:
        raise DedtError(f"Unknown weights '{name}'. Choose one of: {', '.join(ADDRESSES)}.")
    return OfficialFile.at(ADDRESSES[name]())


def weights_folder():
    """Where published files are put: ``$DEDT_WEIGHTS``, else ``weights/`` in the project."""
    return Path(os.environ.get("DEDT_WEIGHTS") or project_root() / "weights")


def locate(name, path=""):
    """The file with the weights ``name``, complete and unaltered: a Path.

    path: a file of one's own, the official one or a ``.safetensors``.  Without it the file is looked for in
    ``weights_folder()`` and in PyTorch's own cache, and else downloaded.  Raises DedtError for an unknown
    name, a file that is missing or altered, and a download that fails.
    """
    file = official(name)
    if path:
        path = Path(path)
        if not path.exists():
            raise DedtError(f"{path} does not exist. It should hold the weights {name}.")
        return path if path.suffix == ".safetensors" else _verified(path, file)
    target = weights_folder() / file.name
    for candidate in (target, Path(torch.hub.get_dir()) / "checkpoints" / file.name):
        if candidate.exists():
            return _verified(candidate, file)
    _download(file, target)
    return target


def read_official(name, path=""):
    """The tensors of the weights ``name``: a dict with the names of their publisher.

    path: see :func:`locate`, which says what is raised too.
    """
    file = locate(name, path)
    if file.suffix == ".safetensors":
        return read_tensors(file)
    if name == "clip-rn50-openai":
        with warnings.catch_warnings():  # PyTorch deprecates TorchScript, but OpenAI's file is written in it
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(file, map_location="cpu").state_dict()
    return torch.load(file, map_location="cpu", weights_only=True)


def _verified(path, file):
    found = sha256(path)
    if not found.startswith(file.sha256):
        raise DedtError(
            f"{path} is not the official {file.name}: its SHA-256 begins with {found[:16]}, not with "
            f"{file.sha256[:16]}. It is incomplete or was altered; delete it and run again, or fetch it from "
            f"{file.url}. Weights of your own must be a .safetensors file."
        )
    return path


def _download(file, target):
    """Fetch an official file, verify it, and only then give it its name."""

    def failed(reason):
        return DedtError(
            f"{file.name} could not be downloaded ({reason}). Run again, or fetch {file.url} by other means "
            f"and put it into {target.parent}; its SHA-256 begins with {file.sha256}."
        )

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DedtError(
            f"Cannot create {target.parent} ({error.strerror}). Set DEDT_WEIGHTS to a folder that can be "
            "written."
        ) from error
    with atomic(target) as partial, open(partial, "wb") as output:
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(file.url, timeout=60) as source:
                for block in _blocks(source, file.name):
                    digest.update(block)
                    output.write(block)
        except (OSError, http.client.HTTPException) as error:
            raise failed(error) from error
        if not digest.hexdigest().startswith(file.sha256):
            raise failed(f"what came has the SHA-256 {digest.hexdigest()[:16]}..., {output.tell():,} bytes")


def _blocks(source, name):
    size = int(source.headers.get("Content-Length") or 0) or None
    with tqdm(total=size, desc=name, unit="B", unit_scale=True, leave=False) as bar:
        while block := source.read(1 << 20):
            bar.update(len(block))
            yield block


# ---- a network's name by its content ------------------------------------------------------------------


def key_of(network):
    """Sixteen hex digits of a network's settings and weights: same network, same key.

    network: any torch.nn.Module.  Settings are those of its ``config``, if it has one.
    """
    config = getattr(network, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else config
    about_the_file = "transformers_version"  # and whatever begins with an underscore
    settings = {k: v for k, v in config.items() if not k.startswith("_") and k != about_the_file}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Published:
    """The files of a published network on this disk.

    name: what was asked for.  commit: the hub's, None for files that did not come from it.  folder: where
    they are. files: path in the folder -> SHA-256, of everything that is read.
    """

    name: str
    commit: str | None
    folder: Path
    files: dict

    @property
    def facts(self):
        """Name, commit and files as JSON: what a manifest keeps beside a result."""
        return {"name": self.name, "commit": self.commit, "files": self.files}


# ---- the Hugging Face hub ----------------------------------------------------------------------------


def hub_folder(where, what, weights, config="config.json"):
    """The folder that holds ``config`` and one of the files ``weights`` of a network: a Path.

    Arguments and errors as of :func:`hub_files`.
    """
    return hub_files(where, what, weights, config).folder


def hub_files(where, what, weights, config="config.json"):
    """The file ``config`` and one of the files ``weights`` of a network: :class:`Published`.

    where: a folder; or a name on the Hugging Face hub, "owner/name" or "owner/name@revision", see
    :func:`published`.  what: the network in words, for messages ("the autoencoder").  weights: names, the
    best first.  Raises DedtError for files that are missing, for weights as pickles where ``weights`` names
    none, for a download that fails or was altered, and for a name that stands for something else than before.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetch(name, revision, local):
        for file in weights:
            try:
                if not local:
                    ask_hub(name, revision, file)
                hf_hub_download(name, file, revision=revision, local_files_only=local)
            except EntryNotFoundError:
                continue
            return Path(hf_hub_download(name, config, revision=revision, local_files_only=local)).parent
        raise OSError(f"it has no {' and no '.join(weights)}")

    def used(folder):
        _complete(folder, what, weights, config)
        return config, next(file for file in weights if (folder / file).exists())

    return published(where, what, f"{config} and {' or '.join(weights)}", fetch, used)


def published(where, what, needs, fetch, used):
    """The files of a network in a folder or on the hub: :class:`Published`.

    where: a folder, or "owner/name" or "owner/name@revision", which is looked for in ``weights_folder()`` and
    in the hub's cache, and else downloaded.  A name without a revision is pinned: by PINNED, else by its
    first use, whose commit and digests stay in ``hub.lock.json`` in ``weights_folder()``.  Every later use is
    compared with it, also of a folder of that name there, which is taken as it is at first.
    what, needs: the network and its files in words.  fetch(name, revision, local): the folder of the hub's
    cache with the files, downloaded unless ``local``.  used(folder): the files in it that are read.
    Raises DedtError when there is none, or for another content than at the first use.
    """
    folder, commit = own_folder(where), None
    if not folder:
        name = hub_name(where, what, needs)
        try:
            folder = _from_hub(name, fetch, used)
        except Exception as error:  # the hub's client raises errors of several libraries
            raise not_fetched(name, what, needs, reason(error)) from error
        commit = folder.name
    files = {file: sha256(folder / file) for file in used(folder)}
    found = Published(str(where), commit, folder, files)
    if commit or not Path(where).expanduser().is_dir():
        _compare_with_lock(found)
    return found


def own_folder(where):
    """The folder ``where``, or the one of that name in ``weights_folder()``; None where there is neither."""
    candidates = Path(where).expanduser(), weights_folder() / where
    return next((folder for folder in candidates if folder.is_dir()), None)


def hub_name(where, what, needs):
    """``where`` as a name on the hub, "owner/name[@revision]"; raises DedtError for anything else."""
    if not HUB_NAME.fullmatch(str(where)):
        raise DedtError(
            f"{where} does not exist. Give {what} as a folder with {needs}, or by its name on the Hugging "
            "Face hub (owner/name, or owner/name@revision)."
        )
    return str(where)


def not_fetched(where, what, needs, reason):
    """The DedtError for weights that are neither here nor to be had: what to fetch, and where to put it."""
    name, revision = _revision(where)
    address = name if revision == "main" else f"{name}/tree/{revision}"
    return DedtError(
        f"There is no folder {where}, and {what} of that name on the Hugging Face hub could not be fetched "
        f"({reason}). Run again with a network; or fetch {needs} from https://huggingface.co/{address} by "
        f"other means and put them into {weights_folder() / where}, or give the folder that holds them."
    )


def ask_hub(name, revision, file):
    """What the hub says of a file: its commit_hash and etag.

    Where there is no network, the client's downloads would try again for minutes; this asks once.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=HUB_PATIENCE)


def _revision(where):
    """(name, revision) that "owner/name[@revision]" stands for."""
    name, _, given = where.partition("@")
    pinned, _ = PINNED.get(where, (None, {}))
    return name, pinned or _locked().get(where, {}).get("commit") or given or "main"


def _from_hub(where, fetch, used):
    """The folder of the hub's cache with a network; a download is compared with what the hub names."""
    name, revision = _revision(where)
    with contextlib.suppress(Exception):  # what is in the cache needs no answer from the hub
        return fetch(name, revision, True)
    folder = fetch(name, revision, False)
    for file in used(folder):
        told, path = ask_hub(name, revision, file), folder / file
        if told.commit_hash != folder.name:
            raise OSError(f"it changed meanwhile, from commit {folder.name} to {told.commit_hash}")
        if not _has_digest(path, told.etag):
            path.resolve().unlink()
            raise OSError(f"what came as {file} has another SHA-256 than the hub names")
    return folder


def _has_digest(path, etag):
    """Whether a file is what the hub's ``etag`` names: a SHA-256, or of small files git's hash."""
    from huggingface_hub.utils.sha import git_hash

    return etag == (git_hash(path.read_bytes()) if len(etag) == 40 else sha256(path))


def _locked():
    path = weights_folder() / LOCK
    return read_json(path) if path.exists() else {}


def _compare_with_lock(found):
    """Refuse another content under a name than it had before; note that of a new name."""
    before = _locked().get(found.name, {"commit": found.commit, "files": {}})
    _, pinned = PINNED.get(found.name, (None, {})) if found.commit else (None, {})
    for file, expected in {**pinned, **before["files"]}.items():
        if found.files.get(file, expected) != expected:
            path = (found.folder / file).resolve()
            raise DedtError(
                f"{path} is not what {found.name} stood for before: its SHA-256 begins with "
                f"{found.files[file][:16]}, not with {expected[:16]}. "
                + ("Delete it and run again" if found.commit else "Put the former file back")
                + f"; or, if the new one is meant, take {found.name} out of {weights_folder() / LOCK}."
            )
    entry = {"commit": found.commit, "files": {**before["files"], **found.files}}
    if entry != before:
        with contextlib.suppress(OSError):  # a folder that cannot be written keeps what others put there
            weights_folder().mkdir(parents=True, exist_ok=True)
            with FileLock(weights_folder() / f"{LOCK}.lock"):
                write_json(weights_folder() / LOCK, {**_locked(), found.name: entry})


def _complete(folder, what, weights, config):
    choice = " or ".join(weights)
    missing = [] if (folder / config).exists() else [config]
    if not any((folder / name).exists() for name in weights):
        refuse_pickles(folder)
        missing.append(choice)
    if missing:
        raise DedtError(
            f"{folder} holds no {' and no '.join(missing)}. Put {config} and {choice} of {what} there, as "
            "save_pretrained writes them."
        )


def reason(error):
    """What an error of another library says, in one line."""
    cause = error.__cause__ or error
    return next(iter(str(cause).splitlines()), type(cause).__name__).rstrip(".")
