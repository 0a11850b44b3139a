import http.server
import pickle
import threading

import pytest
import torch

from dedt_lib import encoders, store, weights
from dedt_lib.errors import DedtError


def network(width=8, seed=0):
    return encoders.seeded(seed, "weights", lambda: encoders.SmallClassifier(1, 10, width))


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


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
    assert {name: (file.name, file.sha256[:8]) for name, file in found.items()} == {
        "inceptionv3-imagenet": ("inception_v3_google-0cc3c7bd.pth", "0cc3c7bd"),
        "resnet18-imagenet": ("resnet18-f37072fd.pth", "f37072fd"),
        "clip-rn50-openai": ("RN50.pt", "afeb0e10"),
        "inception-fid": ("weights-inception-2015-12-05-6726825d.pth", "6726825d"),
    }
    assert len(found["clip-rn50-openai"].sha256) == 64
    assert all(file.url.startswith("https://") and file.url.endswith(file.name) for file in found.values())
    with pytest.raises(DedtError, match="Unknown weights 'vgg'. Choose one of: inceptionv3-imagenet"):
        weights.official("vgg")


class Site:
    """A server on this machine with one file; ``send`` is what it really sends."""

    def __init__(self, content):
        self.send = self.content = content
        self.requests = 0
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(site.content)))
                self.end_headers()
                self.wfile.write(site.send)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site with the official file of "resnet18-imagenet", and an empty weights folder."""
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
    assert torch.equal(read()["head"], torch.arange(3.0))
    assert torch.equal(read()["head"], torch.arange(3.0))
    assert site.requests == 1
    assert [file.name for file in (tmp_path / "weights").iterdir()] == [site.file]


def test_a_truncated_download_leaves_nothing(site, tmp_path):
    site.send = site.content[:-100]
    with pytest.raises(DedtError, match="could not be downloaded"):
        read()
    assert not list((tmp_path / "weights").iterdir())
    site.send = site.content
    assert "head" in read()


def test_an_altered_download_is_never_opened(site, tmp_path):
    site.send = site.content = pickle.dumps(Bomb(tmp_path / "trace"))
    with pytest.raises(DedtError, match="could not be downloaded .what came has the SHA-256"):
        read()
    assert not (tmp_path / "trace").exists() and not list((tmp_path / "weights").iterdir())


def test_without_a_network_the_message_says_what_to_fetch_and_where_to_put_it(site, tmp_path):
    site.close()
    with pytest.raises(DedtError) as error:
        read()
    file = weights.official("resnet18-imagenet")
    for part in (file.name, file.url, file.sha256, str(tmp_path / "weights")):
        assert part in str(error.value)


def test_a_damaged_file_in_the_folder_is_told_and_kept(site, tmp_path):
    file = weights.locate("resnet18-imagenet")
    file.write_bytes(site.content[:-1])
    with pytest.raises(DedtError, match=f"{site.file} is not the official.*delete it and run again"):
        read()
    assert file.exists() and site.requests == 1


def test_pytorchs_own_cache_is_used(site, tmp_path):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / site.file).write_bytes(site.content)
    assert weights.locate("resnet18-imagenet") == cache / site.file
    assert site.requests == 0


def test_a_file_of_ones_own_is_safetensors_or_the_official_one(site, tmp_path):
    own, renamed, pickled = tmp_path / "own.safetensors", tmp_path / "renamed.bin", tmp_path / "other.pth"
    weights.save_weights(network(seed=1), own)
    assert "head.weight" in weights.read_official("resnet18-imagenet", own)
    renamed.write_bytes(site.content)
    assert "head" in weights.read_official("resnet18-imagenet", str(renamed))
    torch.save(Bomb(tmp_path / "trace"), pickled)
    with pytest.raises(DedtError, match="other.pth is not the official .*your own must be a .safetensors"):
        weights.read_official("resnet18-imagenet", pickled)
    with pytest.raises(DedtError, match="nowhere.pth does not exist"):
        weights.locate("resnet18-imagenet", tmp_path / "nowhere.pth")
    assert not (tmp_path / "trace").exists() and site.requests == 0


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
    assert weights.weights_folder() == store.project_root() / "weights"
