"""The library's components at their smallest size, for the tests and the processes that they start."""

import dataclasses
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from dedt_lib import data
from dedt_lib.config.profile import load_profile
from dedt_lib.experiment import Experiment
from dedt_lib.models import build_model
from dedt_lib.randomness import seeded
from dedt_lib.training import TrainingSettings, loop

SETTINGS = TrainingSettings(
    epochs=4,
    batch_size=8,
    learning_rate=1e-3,
    warmup_steps=4,
    gradient_clip=1.0,
    ema_decay=0.999,
    label_dropout=0.2,
    flip=True,
    checkpoint_every=3,
)


# Values that the tests rely on, so that the smoke profile may change independently.
PROFILE = {
    "data.per_class": 30,
    "unet.ratios": (0.1, 0.4),
    "seeds": (0,),
    "select.moderate_scope": "class",
    "encoders.resnet18.epochs": 2,
    "unet.epochs": 8,
    "unet.batch_size": 25,
    "train.annealing_start": 0.875,
    "train.checkpoint_every": 20,
    "reweight.burn_in": 0.25,
    "unet.steps": 5,
    "unet.guidance": 0.3,
    "sample.count": 100,
    "evaluate.epochs": 2,
}


def profile(**changes):
    """The smoke profile with the sizes above: 300 digits, 96 steps on all of them and 16 on a tenth."""
    return load_profile("smoke", **{**PROFILE, **changes})


def beside(experiment, recipe, **changes):
    """An experiment in the store of another one, under :func:`profile` with changes."""
    return Experiment(profile(**changes), store=experiment.store, device="cpu", **recipe)


def settings(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def digits(per_class=3):
    return data.load("digits", per_class=per_class)


def unet(seed=0, dropout=0.0):
    """A one-level U-Net for the digits."""
    sizes = {"block_channels": [8], "layers": 1, "attention": [False], "groups": 4, "dropout": dropout}
    digits = {"channels": 1, "image_size": 8, "num_classes": 10}
    return seeded(seed, "tiny", lambda: build_model("unet", **digits, **sizes))


def mdt(seed=0, **changes):
    """A small MDT with random weights everywhere; many weights of a fresh MDT are zero."""
    sizes = {"input_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2, "decode_layer": 2}
    model = seeded(seed, "mdt", lambda: build_model("mdt", **{**sizes, "num_classes": 10, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return model


# ---- files -------------------------------------------------------------------------------------------


def png(image):
    """The bytes of a PNG file of a Pillow image or an array of pixels."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, "PNG")
    return file.getvalue()


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_images(root, classes=("ash", "birch", "cedar"), each=4, size=(7, 5)):
    """Write random colour PNGs, one folder per class."""
    generator = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


class Bomb:
    """An object whose pickle creates the folder ``trace`` when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


# Kinds of damage to a file: cut off, one bit flipped, empty.
DAMAGE = [lambda b: b[:-5], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b""]


# ---- watching and stopping runs ----------------------------------------------------------------------


def on_step(patch, action, *, before=False):
    """Call ``action(run)`` before or after every step of every training run."""
    take_step = loop.Run.take_step

    def step(run, batch):
        if before:
            action(run)
        take_step(run, batch)
        if not before:
            action(run)

    patch.setattr(loop.Run, "take_step", step)


def interrupt(patch, after):
    """Make training stop as by Ctrl-C after ``after`` steps."""

    def stop(run):
        if run.step == after:
            raise KeyboardInterrupt

    on_step(patch, stop, before=True)


def signal_at(patch, step, signum):
    """Send this process a signal during a training step."""
    on_step(patch, lambda run: run.step == step and signal.raise_signal(signum), before=True)


def recorded(patch, look, **when):
    """A list that collects ``look(run)`` at every training step."""
    seen = []
    on_step(patch, lambda run: seen.append(look(run)), **when)
    return seen


def assert_same_weights(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values()):
        assert torch.equal(a, b), name


def step_of(checkpoint):
    """The number of steps after which a checkpoint was written."""
    with safe_open(checkpoint, "pt") as file:
        return json.loads(file.metadata()["run"])["step"]


# ---- other processes ---------------------------------------------------------------------------------


def environment(**variables):
    """Environment variables with which another process finds the library and the tests."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def python(*arguments, cwd=None, timeout=None, **variables):
    """Run ``python *arguments`` to its end; the completed process."""
    command, how = [sys.executable, *map(str, arguments)], {"cwd": cwd, "timeout": timeout}
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True, **how)


class Server:
    """An HTTP server on this machine; a subclass writes the response in ``answer(handler)``."""

    def __init__(self):
        server, self.requests = self, []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        serve = {"target": self.server.serve_forever, "kwargs": {"poll_interval": 0.02}}
        threading.Thread(**serve, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Site(Server):
    """A server with the same file under every name; it sends ``send``, by default all of ``content``."""

    def __init__(self, content):
        super().__init__()
        self.send = self.content = content
        self.status = 200

    def answer(self, handler):
        self.requests.append(handler.path)
        handler.send_response(self.status)
        handler.send_header("Content-Length", str(len(self.content)))
        handler.end_headers()
        handler.wfile.write(self.send)
