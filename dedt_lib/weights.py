"""Weights on disk: the library's own as safetensors, and the files of published networks.

No pickle is ever opened on trust.  The official files are pickles, so their SHA-256 is checked first, and
even then only tensors are read from them.
"""

import contextlib
import hashlib
import http.client
import os
import re
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .errors import DedtError
from .store import atomic, project_root, sha256

PICKLES = (".bin", ".pt", ".ckpt")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
HUB_PATIENCE = 10  # seconds


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
            f"{file.name} could not be downloaded ({reason}). Run again, or fetch {file.url} by other means and "
            f"put it into {target.parent}; its SHA-256 begins with {file.sha256}."
        )

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DedtError(
            f"Cannot create {target.parent} ({error.strerror}). Set DEDT_WEIGHTS to a folder that can be written."
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


# ---- the Hugging Face hub ----------------------------------------------------------------------------


def hub_folder(where, what, weights, config="config.json"):
    """The folder that holds ``config`` and one of the files ``weights`` of a network: a Path.

    where: a folder, or a name on the Hugging Face hub, which is looked for in ``weights_folder()`` and in the
    hub's cache, and else downloaded.  what: the network in words, for messages ("the autoencoder").  weights:
    names, the best first.  Raises DedtError for files that are missing, for weights as pickles where
    ``weights`` names none, and for a download that fails or was altered.
    """
    folder, files = own_folder(where), f"{config} and {' or '.join(weights)}"
    if folder:
        return _complete(folder, what, weights, config)
    name = hub_name(where, what, files)
    try:
        return _from_hub(name, weights, config)
    except Exception as error:  # the hub's client raises errors of several libraries
        raise not_fetched(name, what, files, error) from error


def own_folder(where):
    """The folder ``where``, or the one of that name in ``weights_folder()``; None where there is neither."""
    candidates = Path(where).expanduser(), weights_folder() / where
    return next((folder for folder in candidates if folder.is_dir()), None)


def hub_name(where, what, files):
    """``where`` as a name on the hub, "owner/name"; raises DedtError for anything else."""
    if not HUB_NAME.fullmatch(str(where)):
        raise DedtError(
            f"{where} does not exist. Give {what} as a folder with {files}, or by its name on the Hugging Face "
            "hub (owner/name)."
        )
    return str(where)


def not_fetched(name, what, files, reason):
    """The DedtError for weights that are neither here nor to be had: what to fetch, and where to put it."""
    return DedtError(
        f"There is no folder {name}, and {what} of that name on the Hugging Face hub could not be fetched "
        f"({reason}). Run again with a network; or fetch {files} from https://huggingface.co/{name} by other "
        f"means and put them into {weights_folder() / name}, or give the folder that holds them."
    )


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
    return folder


def _from_hub(name, weights, config):
    """The folder of the hub's cache that holds the network ``name``, downloaded if need be."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    for file in weights:
        cached = [try_to_load_from_cache(name, part) for part in (config, file)]
        if all(isinstance(path, str) for path in cached):
            return Path(cached[0]).parent
    file, digest = _published(name, weights)
    path = Path(hf_hub_download(name, file))
    if sha256(path) != digest:
        path.resolve().unlink()
        raise OSError(f"what came as {file} has another SHA-256 than the hub names")
    return Path(hf_hub_download(name, config)).parent


def _published(name, files):
    """The first of ``files`` that the hub has under ``name``, and its SHA-256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for file in files:
        with contextlib.suppress(EntryNotFoundError):
            # Where there is no network, the client's downloads would try again for minutes; this asks once.
            return file, get_hf_file_metadata(hf_hub_url(name, file), timeout=HUB_PATIENCE).etag
    raise OSError(f"it has no {' and no '.join(files)}")
