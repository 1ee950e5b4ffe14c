"""train/language.py as a user runs it, on a generated text."""

import json
import math
import subprocess
import sys

import pytest
import torch

from fwagents.tasks.training import CHECKPOINT

from .scripts import refused
from .scripts import run as run_script

SMALL = [
    *("--file", "text.txt", "--embedding-size", "4", "--batch-size", "4", "--bptt", "10"),
    *("--updates", "60", "--eval-freq", "20", "--learning-rate", "0.02"),
]
TINY = [*SMALL, "--hidden-size", "8"]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    """Make a folder with a text that is easy to learn."""
    cwd = tmp_path_factory.mktemp("work")
    (cwd / "text.txt").write_text("abcd\n" * 400)
    return cwd


def run(*args, cwd):
    return run_script("language.py", *args, cwd=cwd)


def only_run(cwd, log_dir="runs"):
    (folder,) = (cwd / log_dir / "language").iterdir()
    return folder


def test_a_run_and_its_result(cwd):
    """The next character of this text follows from the last one, so the bits fall far below log2 5."""
    done = run(*SMALL, "--parameters", "130", "--output", "out/result.json", "--log-dir", "first", cwd=cwd)
    assert done.returncode == 0, done.stderr
    folder = only_run(cwd, "first")
    assert folder.name.startswith("fast_weights-4-s0-")
    found = json.loads((folder / "result.json").read_text())
    assert found == json.loads((cwd / "out" / "result.json").read_text())
    assert (found["task"], found["core"], found["updates"]) == ("language", "fast_weights", 60)
    # 5 characters, D = 4, R = 4: embedding 20, scores 25, core R (R + D + 1), and a gain and a bias for each unit.
    assert (found["hidden_size"], found["parameters"]) == (4, 20 + 25 + 36 + 8)
    assert found["config"]["file"] == "text.txt"
    assert found["config"]["parameters"] == 130
    for split in ("validation", "test"):
        assert found[f"{split}_bits"] == pytest.approx(found[f"{split}_nll"] / math.log(2))
    assert found["curve"]["update"] == [0, 20, 40, 60]
    assert found["best_update"] == 60
    assert found["curve"]["validation_bits"][-1] == found["validation_bits"] < found["curve"]["validation_bits"][0]
    assert f"Test {found['test_bits']:.4f} bits per character, error {found['test_error']:.2f} %" in done.stdout
    sample = done.stdout[done.stdout.index("Sample:\n") :]
    assert "abcd" in sample
    assert list(folder.glob("events.out.tfevents.*"))


def test_killed_and_resumed_equals_unbroken(cwd):
    """A run that is interrupted after the second validation and resumed has the numbers of an uninterrupted run."""
    options = [*TINY, "--core", "lstm", "--no-test"]
    whole = run(*options, "--log-dir", "whole", cwd=cwd)
    assert whole.returncode == 0, whole.stderr
    code = (
        "import sys\n"
        "from fwagents.tasks.bptt import LanguageTrainer as T\n"
        "loss = T.loss\n"
        "T.loss = lambda self: loss(self) if self.update < 27 else sys.exit(9)\n"
        "from fwagents.commands.language import main; main()"
    )
    command = [sys.executable, "-c", code, *options, "--log-dir", "parts"]
    assert subprocess.run(command, cwd=cwd, capture_output=True, check=False, timeout=120).returncode == 9
    folder = only_run(cwd, "parts")
    done = run("--resume", folder.relative_to(cwd), cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "at 20 updates" in done.stdout
    results = [json.loads((only_run(cwd, name) / "result.json").read_text()) for name in ("whole", "parts")]
    assert results[0]["curve"] == results[1]["curve"]
    assert results[0]["test_bits"] is None
    kept = [torch.load(only_run(cwd, name) / CHECKPOINT, weights_only=True) for name in ("whole", "parts")]
    torch.testing.assert_close(kept[0]["model"], kept[1]["model"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--file", "nowhere.txt"], "nowhere.txt is no file, expected a text"),
        ([*TINY, "--bptt", "0"], "--bptt is 0"),
        ([*TINY, "--batch-size", "200"], "the training text has 1799 characters, expected at least 2009"),
        ([*SMALL, "--parameters", "10"], "parameters is 10, expected at least 89"),
        ([*TINY, "--core", "gru", "--decay", "0.9"], "core 'gru' has no option 'decay'"),
        ([*TINY, "--embedding-size", "0"], "--embedding-size is 0"),
        (["--resume", "text.txt"], "is no run"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_a_mistake_is_one_clear_line(args, message, cwd, monkeypatch, capsys):
    monkeypatch.chdir(cwd)
    from fwagents.commands.language import main

    before = sorted(cwd.rglob("*"))
    assert message in refused(capsys, main, args)
    assert sorted(cwd.rglob("*")) == before


def test_without_a_text_it_says_how_to_get_one(tmp_path):
    done = run(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: data/tinyshakespeare.txt is no file, expected --file FILE with any UTF-8 text"
    )
    assert not list(tmp_path.iterdir())
