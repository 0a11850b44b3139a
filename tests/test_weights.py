import hashlib
import pickle
import shutil
import time
from functools import partial
from operator import attrgetter

import pytest
import torch
from huggingface_hub import constants
from tiny import Bomb, Server, Site

from dedt_lib import encoders, files, store, weights
from dedt_lib.config.profile import load_profile, profile_names
from dedt_lib.encoders.vit import CLIP_VIT, ClipViT
from dedt_lib.errors import DedtError
from dedt_lib.models.autoencoder import load_autoencoder
from dedt_lib.models.stable_diffusion import VERSION_1_4, load_pipeline
from dedt_lib.randomness import seeded


def network(width=8, seed=0):
    return seeded(seed, "weights", lambda: encoders.SmallClassifier(1, 10, width))


# ---- the library's own files -------------------------------------------------------------------------


def test_weights_round_trip(tmp_path):
    weights.save_weights(network(seed=1), tmp_path / "model.safetensors")
    loaded = weights.load_weights(network(seed=2), tmp_path / "model.safetensors")
    assert torch.equal(loaded.head.weight, network(seed=1).head.weight)


def test_weights_of_another_network_are_refused(tmp_path):
    weights.save_weights(network(width=16), tmp_path / "model.safetensors")
    with pytest.raises(DedtError, match="belongs to another network"):
        weights.load_weights(network(width=8), tmp_path / "model.safetensors")


@pytest.mark.parametrize("save", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save])
def test_a_pickle_is_refused_and_never_opened(tmp_path, save):
    file, trace = tmp_path / "model.pt", tmp_path / "trace"
    save(Bomb(trace), file)
    with pytest.raises(DedtError, match="is a pickle.*Convert it to safetensors"):
        weights.read_tensors(file)
    assert not trace.exists()


def test_missing_and_damaged_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(DedtError, match="does not exist"):
        weights.read_tensors(file)
    weights.save_weights(network(), file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DedtError, match="not a readable safetensors file.*Delete it and run again"):
        weights.read_tensors(file)


# ---- official files ----------------------------------------------------------------------------------


def test_addresses_and_hashes_are_the_libraries_own():
    found = {name: weights.official(name) for name in weights.ADDRESSES}
    assert {name: (url.rpartition("/")[2], digits[:8]) for name, (url, digits) in found.items()} == {
        "inceptionv3-imagenet": ("inception_v3_google-0cc3c7bd.pth", "0cc3c7bd"),
        "resnet18-imagenet": ("resnet18-f37072fd.pth", "f37072fd"),
        "clip-rn50-openai": ("RN50.pt", "afeb0e10"),
        "inception-fid": ("weights-inception-2015-12-05-6726825d.pth", "6726825d"),
    }
    assert len(found["clip-rn50-openai"][1]) == 64
    assert all(url.startswith("https://") for url, _ in found.values())
    with pytest.raises(DedtError, match="Unknown weights 'vgg'. Choose one of: inceptionv3-imagenet"):
        weights.official("vgg")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server with the official file of "resnet18-imagenet"; the weights folder is empty."""
    state = {"head": torch.arange(3.0)}
    torch.save(state, tmp_path / "new.pth")
    digits = store.sha256(tmp_path / "new.pth")
    site = Site((tmp_path / "new.pth").read_bytes())
    site.file = f"net-{digits[:8]}.pth"
    address = f"{site.url}/{site.file}"
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(weights.ADDRESSES, "resnet18-imagenet", lambda: address)
    monkeypatch.setenv("DEDT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    yield site
    site.close()


def read():
    return weights.read_official("resnet18-imagenet")


def test_a_download_is_verified_kept_and_not_repeated(site, tmp_path):
    for _ in range(2):
        assert torch.equal(read()["head"], torch.arange(3.0))
    assert len(site.requests) == 1
    assert [file.name for file in (tmp_path / "weights").iterdir()] == [site.file]


def test_a_truncated_download_leaves_nothing(site, tmp_path):
    site.send = site.content[:-100]
    with pytest.raises(DedtError, match="could not be downloaded"):
        read()
    assert not (tmp_path / "weights").exists()
    site.send = site.content
    assert "head" in read()


def test_an_altered_download_is_never_opened(site, tmp_path):
    site.send = site.content = pickle.dumps(Bomb(tmp_path / "trace"))
    with pytest.raises(DedtError, match="could not be downloaded .invalid hash value"):
        read()
    assert not (tmp_path / "trace").exists() and not (tmp_path / "weights").exists()


def test_without_a_network_the_message_says_what_to_fetch_and_where_to_put_it(site, tmp_path):
    site.close()
    with pytest.raises(DedtError) as error:
        read()
    for part in (*weights.official("resnet18-imagenet"), str(tmp_path / "weights")):
        assert part in str(error.value)


def test_a_damaged_file_in_the_folder_is_told_and_kept(site, tmp_path):
    file = weights.locate("resnet18-imagenet")
    file.write_bytes(site.content[:-1])
    with pytest.raises(DedtError, match=f"{site.file} is not the official.*delete it and run again"):
        read()
    assert file.exists() and len(site.requests) == 1


def test_pytorchs_own_cache_is_used(site, tmp_path):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / site.file).write_bytes(site.content)
    assert weights.locate("resnet18-imagenet") == cache / site.file
    assert not site.requests


def test_a_file_of_ones_own_is_safetensors_or_the_official_one(site, tmp_path):
    own, renamed, pickled = tmp_path / "own.safetensors", tmp_path / "renamed.bin", tmp_path / "other.pth"
    weights.save_weights(network(seed=1), own)
    assert "head.weight" in weights.read_official("resnet18-imagenet", own)
    renamed.write_bytes(site.content)
    assert "head" in weights.read_official("resnet18-imagenet", str(renamed))
    torch.save(Bomb(tmp_path / "trace"), pickled)
    with pytest.raises(
        DedtError, match="other.pth is not the official .*Your own weights must be a .safetensors"
    ):
        weights.read_official("resnet18-imagenet", pickled)
    with pytest.raises(DedtError, match="nowhere.pth does not exist"):
        weights.locate("resnet18-imagenet", tmp_path / "nowhere.pth")
    assert not (tmp_path / "trace").exists() and not site.requests


def test_even_a_verified_pickle_runs_no_code(tmp_path, monkeypatch):
    file, trace = tmp_path / "bomb.pth", tmp_path / "trace"
    torch.save(Bomb(trace), file)
    address = f"http://127.0.0.1:9/bomb-{store.sha256(file)[:8]}.pth"
    monkeypatch.setitem(weights.ADDRESSES, "resnet18-imagenet", lambda: address)
    with pytest.raises(pickle.UnpicklingError):
        weights.read_official("resnet18-imagenet", file)
    assert not trace.exists()


def test_a_folder_that_cannot_be_made_is_told(site, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEDT_WEIGHTS", str(tmp_path / "file" / "weights"))
    with pytest.raises(DedtError, match="Cannot create .*Set DEDT_WEIGHTS"):
        read()


def test_weights_lie_in_the_project_by_default(monkeypatch):
    monkeypatch.delenv("DEDT_WEIGHTS", raising=False)
    assert weights.weights_folder() == files.project_root() / "weights"


# ---- the hub -----------------------------------------------------------------------------------------

NAME, WHAT, FILES = "someone/net", "the network", ("model.safetensors", "model.bin")
VAE = "stabilityai/sd-vae-ft-mse"
COMMIT = "0" * 40


class Hub(Server):
    """A substitute for the Hugging Face hub, with the network NAME.

    ``files`` holds contents by name, ``requests`` all requests in order, ``revisions`` commits by name.
    """

    def __init__(self):
        super().__init__()
        self.files = {"config.json": b"{}", "model.safetensors": b"tensors", "model.bin": b"a pickle"}
        self.digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        self.revisions = {"main": COMMIT}

    def answer(self, handler):
        prefix, _, rest = handler.path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.requests.append((handler.command, name))
        known = {**self.revisions, **{commit: commit for commit in self.revisions.values()}}
        content = self.files.get(name, b"")
        handler.send_response(200 if name in self.files and revision in known else 404)
        if name in self.files:
            handler.send_header("ETag", f'"{self.digests.get(name)}"')
        else:
            handler.send_header("X-Error-Code", "EntryNotFound")
        handler.send_header("X-Repo-Commit", known.get(revision, COMMIT))
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)


@pytest.fixture
def empty_machine(no_network, tmp_path, monkeypatch):
    """A machine with neither weights nor a cache; it may ask the hub, but nothing answers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    connect(monkeypatch, "http://127.0.0.1:9")
    return tmp_path


def connect(monkeypatch, url):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(empty_machine, monkeypatch):
    hub = Hub()
    connect(monkeypatch, hub.url)
    yield hub
    hub.close()


def find(where=NAME, files=FILES):
    return weights.hub_files(where, WHAT, files).folder


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_name_is_fetched_once_and_only_what_is_wanted(hub):
    folder = find()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: hub.files[name] for name in ("config.json", "model.safetensors")
    }
    hub.requests.clear()
    assert find() == folder and not hub.requests


def test_the_next_file_is_taken_where_the_hub_lacks_the_first(hub):
    del hub.files["model.safetensors"]
    assert sorted(path.name for path in find().iterdir()) == ["config.json", "model.bin"]
    hub.requests.clear()
    find()
    assert not hub.requests
    with pytest.raises(
        DedtError, match="could not be downloaded .* .the repository has no model.safetensors.\\. Run again"
    ):
        find(files=FILES[:1])


def test_altered_weights_from_the_hub_are_refused_and_not_kept(hub):
    original, hub.files["model.safetensors"] = hub.files["model.safetensors"], b"sensors"
    for _ in range(2):
        with pytest.raises(DedtError, match="the downloaded model.safetensors does not match its checksum"):
            find()
    hub.files["model.safetensors"] = original
    assert (find() / "model.safetensors").read_bytes() == original


def test_without_a_hub_one_is_told_at_once_what_to_fetch_and_where_to_put_it(empty_machine):
    start = time.perf_counter()
    with pytest.raises(DedtError) as error:
        find()
    assert time.perf_counter() - start < 5
    for part in (
        f"There is no folder {NAME}, and {WHAT} of that name",
        f"config.json and model.safetensors or model.bin from https://huggingface.co/{NAME} ",
        str(empty_machine / "weights" / NAME),
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "load, what, name, files",
    [
        (partial(load_autoencoder, VAE), "autoencoder", VAE, "config.json and diffusion_pytorch_model.safe"),
        (ClipViT, "CLIP of CMMD", CLIP_VIT, "config.json and model.safetensors or pytorch_model.bin"),
        (load_pipeline, "Stable Diffusion pipeline", VERSION_1_4, "model_index.json, scheduler, .* and vae"),
    ],
)
def test_each_published_network_says_what_to_fetch_and_where_to_put_it(load, what, name, files, no_network):
    start = time.perf_counter()
    told = f"the {what} of that name .*offline mode is enabled.*download {files}.*from https://huggingface.co/{name}"
    with pytest.raises(DedtError, match=told) as error:
        load()
    assert f"put the files into {no_network / name}" in str(error.value)
    assert time.perf_counter() - start < 5


def test_offline_mode_asks_nobody(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DedtError, match="could not be downloaded .*offline"):
        find()
    assert not hub.requests


def test_a_folder_is_taken_as_it_is_and_before_the_hub(hub, monkeypatch):
    own = fill(weights.weights_folder() / NAME, "config.json", "model.bin")
    assert find() == own
    other = fill(own.parent / "other", "config.json", "model.safetensors")
    assert find(other) == find(str(other)) == other
    monkeypatch.setenv("HOME", str(own.parent))
    assert find("~/other") == other
    assert not hub.requests


def test_folders_that_lack_something_are_told(tmp_path):
    with pytest.raises(DedtError, match="holds no config.json and no model.safetensors or model.bin. Put"):
        find(tmp_path)
    fill(tmp_path, "model.bin")
    with pytest.raises(DedtError, match="holds no config.json. Put config.json and .* of the network there"):
        find(tmp_path)
    fill(tmp_path, "config.json")
    assert find(tmp_path) == tmp_path
    with pytest.raises(DedtError, match="model.bin is a pickle.*Convert it to safetensors"):
        find(tmp_path, FILES[:1])
    fill(tmp_path, "other.safetensors")
    with pytest.raises(DedtError, match="holds no model.safetensors. Put"):
        find(tmp_path, FILES[:1])


@pytest.mark.parametrize("where", ["nowhere", "no/such/folder", "/nowhere/net", "../weights/net"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(hub, where):
    with pytest.raises(DedtError, match=f"{where} does not exist. Give the network as a folder"):
        find(where)
    assert not hub.requests


# ---- what a name on the hub stands for -----------------------------------------------------------------


def lock():
    return store.read_json(weights.weights_folder() / weights.LOCK)


def publish(hub, commit, **revisions):
    """Put other weights on the hub, under another commit of main."""
    hub.files["model.safetensors"] = b"tensors of " + commit.encode()
    hub.digests["model.safetensors"] = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    hub.revisions = {"main": commit, **revisions}


def forget_cache(root):
    shutil.rmtree(root / "cache")


def test_the_first_use_of_a_name_says_what_it_stands_for(hub):
    found = weights.hub_files(NAME, WHAT, FILES)
    digests = {name: hub.digests[name] for name in ("config.json", "model.safetensors")}
    assert found.facts == {"name": NAME, "commit": COMMIT, "files": digests}
    assert lock() == {NAME: {"commit": COMMIT, "files": digests}}


def test_a_name_stands_for_the_same_commit_ever_after(hub, empty_machine):
    first = find() / "model.safetensors"
    content = first.read_bytes()
    old = dict(hub.files), dict(hub.digests)
    publish(hub, "1" * 40, old=COMMIT)
    assert (find() / "model.safetensors").read_bytes() == content
    forget_cache(empty_machine)
    with pytest.raises(DedtError, match="differs from the file recorded for someone/net.*hub.lock.json"):
        find()  # the hub serves something else under the same commit
    hub.files, hub.digests = old
    forget_cache(empty_machine)
    assert find().name == COMMIT and (find() / "model.safetensors").read_bytes() == content


@pytest.mark.parametrize("revision", ["v1", "1" * 40])
def test_a_revision_is_said_after_the_name(hub, revision):
    publish(hub, COMMIT, v1="1" * 40)
    found = weights.hub_files(f"{NAME}@{revision}", WHAT, FILES)
    assert found.commit == found.folder.name == "1" * 40 and find().name == COMMIT
    assert set(lock()) == {NAME, f"{NAME}@{revision}"}
    hub.requests.clear()
    assert find(f"{NAME}@{revision}") == found.folder and not hub.requests


def test_a_revision_that_there_is_not_is_told(hub):
    address = f"https://huggingface.co/{NAME}/tree/v9"
    with pytest.raises(DedtError, match=f"download .* from {address} by other means"):
        find(f"{NAME}@v9")


def test_a_pinned_name_is_its_commit_and_its_content(hub, empty_machine, monkeypatch):
    digest = hub.digests["model.safetensors"]
    monkeypatch.setitem(weights.PINNED, NAME, ("2" * 40, {"model.safetensors": digest}))
    hub.revisions["old"] = "2" * 40
    assert find().name == "2" * 40
    forget_cache(empty_machine)
    (weights.weights_folder() / weights.LOCK).unlink()
    publish(hub, COMMIT, old="2" * 40)
    other = hub.digests["model.safetensors"]
    with pytest.raises(DedtError, match=f"begins with {other[:16]}, not with {digest[:16]}"):
        find()


def test_every_hub_name_of_the_library_is_pinned():
    profiles = [load_profile(name) for name in profile_names()]
    keys = ("autoencoder.weights", "autoencoder.decoder_weights", "stable_diffusion.weights")
    named = {attrgetter(key)(p) for p in profiles for key in (*keys, "evaluate.cmmd_weights")}
    assert {CLIP_VIT, VERSION_1_4, *named} - {"", "pipeline"} <= set(weights.PINNED)
    for commit, pinned in weights.PINNED.values():
        assert len(commit) == 40 and all(len(digest) == 64 for digest in pinned.values())


def test_a_small_file_is_compared_with_the_hash_that_git_gives(hub, empty_machine):
    hub.digests["config.json"] = hashlib.sha1(b"blob 2\0{}").hexdigest()
    find()
    forget_cache(empty_machine)
    hub.digests["config.json"] = "0" * 40
    with pytest.raises(DedtError, match="the downloaded config.json does not match its checksum"):
        find()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_of_ones_own_keeps_to_its_name(hub, file):
    own = fill(weights.weights_folder() / NAME, "config.json", "model.safetensors")
    assert weights.hub_files(NAME, WHAT, FILES).commit is None and set(lock()) == {NAME}
    (own / file).write_bytes(b"another")
    told = f"{file} differs from the file recorded for {NAME}.*Restore the earlier file"
    with pytest.raises(DedtError, match=told):
        find()
    assert weights.hub_files(own, WHAT, FILES).files[file] == hashlib.sha256(b"another").hexdigest()


def test_a_file_of_the_cache_that_was_altered_is_told(hub):
    path = (find() / "model.safetensors").resolve()
    path.write_bytes(b"altered")
    with pytest.raises(DedtError, match=f"{path} differs from .*Delete it and run again"):
        find()
    path.unlink()
    assert (find() / "model.safetensors").read_bytes() == b"tensors"


# ---- keys ----------------------------------------------------------------------------------------------


def test_a_key_follows_names_types_and_values():
    first, again, other, short = network(), network(), network(seed=1), network().bfloat16()
    assert weights.key_of(first) == weights.key_of(again)
    assert len({weights.key_of(net) for net in (first, other, short, network(width=16))}) == 4
