"""Every command of README's table "You want / You type", run as written."""

import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import tiny
from test_photos import pictures

from dedt_lib.shell.cli import main

README = Path(__file__).resolve().parent.parent / "README.md"
TABLE = re.search(r"<!-- commands:start -->\n(.*)<!-- commands:end -->", README.read_text(), re.DOTALL)[1]
ROWS = re.findall(r"^\|.*\| `dedt (.*)` \|$", TABLE, re.MULTILINE)
SMALL = {
    **{"unet.epochs": 1, "unet.channels": [8, 8, 8], "unet.steps": 2, "evaluate.epochs": 1},
    **{"sample.count": 40, "sample.batch_size": 40, "data.image_size": 8, "reweight.burn_in": 0},
}
TRAINING = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
STAND_INS = dict.fromkeys(("reweight", "run photos", "plan"), TRAINING)
STAND_INS["run table1"] = ["--profile", "smoke"]
"""Beginning of a command -> options that are added to make it quick."""
NETWORK = {"hub:": "which needs a network", "dinov2": "could not be downloaded"}
"""Word in a command that needs the network -> its message without a network."""


def run(argv):
    """Run a command; if the folder that it reads is missing, run the row that makes it first."""
    made = Path(argv[1]).parts[0]
    if made in ("coreset", "checked") and not any(Path(made).glob("*")):
        run(shlex.split(next(row for row in ROWS if row.endswith(f"--out {made}"))))
    return main(argv)


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A function that runs a command in a folder with images of every kind, shared by all commands."""
    root = tmp_path_factory.mktemp("home")
    for name, count in {"photos/sea": 40, "photos/wood": 30, "captioned": 20}.items():
        seeds = {f"{i:02d}.jpg": len(name) * 100 + i for i in range(count)}
        pictures(root / name, seeds, size=(48, 40))
    files = sorted((root / "captioned").glob("*.jpg"))
    told = [{"file_name": f.name, "text": f"picture {f.stem}", "label": "ab"[int(f.stem) % 2]} for f in files]
    tiny.write_jsonl(root / "captioned" / "metadata.jsonl", told)
    rows = {"image": [{"bytes": f.read_bytes(), "path": f.name} for f in files], "category": [0, 1] * 10}
    pd.DataFrame(rows).to_parquet(root / "photos.parquet")
    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "0000.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variable in ("DEDT_STORE", "DEDT_RESULTS", "DEDT_WEIGHTS", "HF_HOME"):
            patch.setenv(variable, str(root / variable))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield run


def test_the_table_has_rows():
    assert len(ROWS) == TABLE.count("\n") - 2 >= 10


@pytest.mark.parametrize("command", ROWS)
def test_what_the_readme_says_to_type(typed, command, capsys):
    argv = shlex.split(command)
    out = Path(argv[argv.index("--out") + 1]) if "--out" in argv else None
    if argv[0] in ("export", "run") and out:
        shutil.rmtree(out, ignore_errors=True)
    extra = next((words for start, words in STAND_INS.items() if command.startswith(start)), [])
    status, (said, complained) = typed([*argv, *extra]), capsys.readouterr()
    for word, message in NETWORK.items():
        if word in command:
            assert status == 2 and message in complained
            return
    assert status == 0 and not complained, complained
    assert "could" not in said and (out is None or any(out.iterdir()))
