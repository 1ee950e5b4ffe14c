"""The console script: its list, its mistakes, and an interrupt at any import."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fwagents.__main__ import main
from fwagents.commands import COMMANDS
from fwagents.runs.agent import Args
from fwagents.runs.interrupts import SIGNALS

ROOT = Path(__file__).parent.parent
INTERRUPTING = "import signal\nsignal.raise_signal(signal.SIGINT)\n"


@pytest.fixture(autouse=True)
def _signals():
    """A command leaves signals ignored behind, since its process ends with it."""
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
    with pytest.raises(SystemExit) as left:
        main([word])
    said = capsys.readouterr()
    assert (left.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err == f"error: command is {word!r}, expected one of {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--tyro-print-completion", shell])
    printed = capsys.readouterr().out
    assert not left.value.code
    for name in COMMANDS:
        assert name in printed
    assert "--total-timesteps" in printed


def fwagents(*args, cwd, path=""):
    """``python -m fwagents`` in a process of its own, with a folder ahead of every other to import from."""
    command, env = [sys.executable, "-m", "fwagents", *args], {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_module_is_the_console_script(tmp_path):
    done = fwagents("watch", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere is no run" in done.stderr


@pytest.mark.parametrize(
    ("command", "module"),
    [("agent", "tyro"), ("agent", "numpy"), ("agent", "torch"), ("retrieval", "torch"), ("watch", "torch")],
)
def test_an_interrupt_during_an_import_is_one_line(command, module, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / f"{module}.py").write_text(INTERRUPTING)
    run = tmp_path / "run"
    run.mkdir()
    words = [str(run)] if command == "watch" else []
    if words:
        (run / "best_model.zip").touch()
        (run / "config.json").write_text(config())
    done = fwagents(command, *words, cwd=tmp_path, path=tmp_path / "path")
    assert (done.returncode, (done.stdout + done.stderr).strip().count("\n")) == (130, 0), done.stderr
    assert "Interrupted" in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


def config():
    """A good config.json."""
    policy_kwargs = {"core": "fast_weights", "hidden_size": 8, "core_kwargs": {}, "critic_core": "shared"}
    return json.dumps({"args": {**vars(Args()), "log_dir": "runs"}, "env_kwargs": {}, "policy_kwargs": policy_kwargs})


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"fwagents.commands.{name}").main(["--help"])
    assert not left.value.code
    assert capsys.readouterr().out.startswith(f"usage: fwagents {name} ")
