"""train/pictures.py on tiny runs of every kind."""

import importlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .runs import run_folder

TRAIN = Path(__file__).parent.parent / "train"
SUPERVISED = ["--hidden-size", "6", "--batch-size", "4", "--updates", "2", "--eval-freq", "1", "--log-dir", "runs"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Return a function that runs a script's main in an empty folder and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(name, *args):
        try:
            importlib.import_module(f"fwagents.commands.{name}").main([str(arg) for arg in args])
        except SystemExit as exit_:
            return exit_.code
        return 0

    return run


def drawn(folder):
    """Check that all pictures in a folder exist light and dark and are not empty; return their names without theme."""
    names = {path.stem.rpartition("-")[0] for path in folder.glob("*.png")}
    for name in names:
        for theme in ("light", "dark"):
            with Image.open(folder / f"{name}-{theme}.png") as image:
                assert image.convert("L").getextrema()[1] - image.convert("L").getextrema()[0] > 100
    return names


def test_an_agent(script):
    tiny = ["--num-envs", "2", "--hidden-size", "4", "--total-timesteps", "40", "--n-steps", "10", "--eval-freq", "0"]
    small = ["--checkpoint-freq", "0", "--final-episodes", "2", "--env-kwargs", "size=5"]
    assert script("agent", *tiny, *small) == 0
    assert script("pictures", run_folder(Path()), "--output", "out") == 0
    assert drawn(Path("out")) == {"attention", "attribution", "growth", "units"}
    with Image.open("out/play.gif") as film:
        assert film.n_frames == 5


@pytest.mark.parametrize("core", ["fast_weights", "rotary_fast_weights", "gru"])
def test_strings(script, core):
    few = ["--pairs", "2", "--train-strings", "20", "--validation-strings", "8", "--test-strings", "8"]
    assert script("retrieval", *SUPERVISED, *few, "--core", core, "--hidden-size", "8") == 0
    assert script("pictures", run_folder(Path()), "--output", "out") == 0
    assert drawn(Path("out")) == {"strings"}


@pytest.mark.parametrize("model", ["plain", "multilevel"])
def test_glimpses(script, model, capsys):
    for split in ("train", "test"):
        for place in range(2):
            folder = Path("faces", split, str(place))
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)).save(
                    folder / f"{i}.png"
                )
    data = ["--dataset", "folder", "--data-dir", "faces", "--patch-size", "2", "--validation-images", "2"]
    assert script("glimpses", *SUPERVISED, *data, "--model", model) == 0
    code = script("pictures", run_folder(Path()), "--output", "out", "--count", "2")
    if model == "plain":
        assert drawn(Path("out")) == {"glimpses-1", "glimpses-2"}
    else:
        assert code == 2
        assert "--model was multilevel, expected plain" in capsys.readouterr().err


def test_what_is_no_run(script, capsys):
    Path("other").mkdir()
    Path("other", "config.json").write_text(json.dumps({"args": {"lr": 1}}))
    for folder in ("nowhere", "other"):
        assert script("pictures", folder, "--output", "out") == 2
        assert "is no run of fwagents agent" in capsys.readouterr().err
    assert not Path("out").exists()
