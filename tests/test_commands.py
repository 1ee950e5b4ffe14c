"""The console script: its list of commands, its errors, its help and its completion."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fwagents.__main__ import main
from fwagents.commands import COMMANDS
from fwagents.runs.interrupts import SIGNALS

from .scripts import TRAIN, refusal, refused

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _signals():
    """Restore the signal handlers: a command leaves signals ignored, since its process usually ends with it."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_every_command_has_its_file_and_its_script():
    files = {path.stem for path in (ROOT / "fwagents" / "commands").glob("[!_]*.py")}
    assert set(COMMANDS) == files == {path.stem for path in (ROOT / "train").glob("*.py")}


@pytest.mark.parametrize("argv", [[], ["--help"]], ids=str)
def test_alone_it_lists_the_commands(argv, capsys):
    main(argv)
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("  fwagents")] == list(COMMANDS)


@pytest.mark.parametrize("word", ["agnet", "--env", "Agent", ""])
def test_an_unknown_command_is_one_line(word, capsys):
    assert refused(capsys, main, [word]) == f"error: command is {word!r}, expected one of {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--tyro-print-completion", shell])
    printed = capsys.readouterr().out
    assert not left.value.code
    for name in COMMANDS:
        assert name in printed
    assert "--total-timesteps" in printed


def test_the_module_is_the_console_script(tmp_path):
    command = [sys.executable, "-m", "fwagents", "watch", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "nowhere is no run" in refusal(done)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"fwagents.commands.{name}").main(["--help"])
    assert not left.value.code
    assert capsys.readouterr().out.startswith(f"usage: fwagents {name} ")


@pytest.mark.parametrize(
    ("name", "words", "named"),
    [
        ("agent", ["--core", "lstmm"], "lstmm"),
        ("agent", ["--total-timesteps", "many"], "--total-timesteps"),
        ("agent", ["--inner-steps", "many"], "--inner-steps"),
        ("agent", ["--sede", "1"], "--sede"),
        ("glimpses", ["--model", "deep"], "deep"),
        ("retrieval", ["--learning-rate", "fast"], "--learning-rate"),
        ("retrieval", ["--lr-schedule", "step"], "step"),
        ("tune", ["--core", "lstmm"], "lstmm"),
        ("watch", ["run", "other"], "other"),
        ("compare", ["--curve", "train"], "train"),
        ("export", [], "equired"),
    ],
    ids=str,
)
def test_what_is_no_option_is_named_in_tyros_own_box(name, words, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"fwagents.commands.{name}").main(words)
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert named in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "option"),
    [
        *[("agent", "--total-timesteps"), ("retrieval", "--hidden-size"), ("glimpses", "--patch-size")],
        *[("watch", "--no-window"), ("pictures", "--output"), ("export", "--output")],
    ],
)
def test_help_needs_no_torch(script, option, tmp_path):
    """Slow modules are imported after the command line is parsed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(TRAIN / f"{script}.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert option in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "numpy", "gymnasium", "stable_baselines3", "matplotlib", "tensorboard"}
