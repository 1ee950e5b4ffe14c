"""``python -m experiments``: its cells, its dry run, its sections and its errors."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import EXPERIMENTS
from experiments.__main__ import main, write
from experiments.board import Board
from experiments.cell import Grid

from .scripts import refused

ROOT = Path(__file__).parent.parent


def cells():
    """Return the cells of every experiment."""
    return [cell for name in EXPERIMENTS for cell in import_module(f"experiments.{name}").CELLS]


def test_the_cells_are_commands_that_exist():
    """Every option exists in its script; all cells have the same search; some also try their own constants."""
    found = [cell for cell in cells() if isinstance(cell.search, Grid)]
    assert len({cell.name for cell in cells()}) == len(cells())
    for cell in found:
        known = {field.name for field in fields(import_module(f"fwagents.commands.{cell.script}").Args)}
        choices = [choice for stage in cell.search.stages for choice in stage]
        for options in (cell.options, cell.search.start, *choices):
            assert set(options) <= known, cell.name
        assert not set(cell.search.seeds) & set(cell.seeds)
    for table in ("retrieval", "glimpses"):
        of_it = [cell for cell in found if cell.group == table]
        assert all(cell.search.stages[:3] == of_it[0].search.stages[:3] for cell in of_it)
        more = {cell.label for cell in of_it if len(cell.search.stages) > 3}
        assert more == {"fast_weights", "irnn"} | ({"multilevel"} if table == "glimpses" else set())
    language = [cell for cell in found if cell.group == "language"]
    assert all(cell.search.stages[:2] == language[0].search.stages[:2] for cell in language)
    assert {cell.options["core"] for cell in language if len(cell.search.stages) > 2} == {"fast_weights"}
    assert len({cell.options["parameters"] for cell in language}) == 1


def test_an_experiment_is_one_file(tmp_path):
    """The first time its section is written, it goes to the end of its page."""
    page = tmp_path / "page.md"
    page.write_text("# Results\n")
    new = SimpleNamespace(__doc__="Play two games.\n\nMore.", section=lambda results, figures: "found")
    between = "<!-- new: written by a command, do not edit -->\nfound\n<!-- end of new -->\n"
    for _ in range(2):
        write({"new": new}, tmp_path, page)
        assert page.read_text() == f"# Results\n\n## Play two games\n\n{between}"


def test_every_experiment_has_its_place_in_the_documentation():
    assert {"curves", "rotary", "suite"} < set(EXPERIMENTS)
    for name in EXPERIMENTS:
        page = getattr(import_module(f"experiments.{name}"), "PAGE", "results.md")
        assert f"<!-- {name.replace('_', '-')}: written by" in (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize("words", [["python", "-m", "experiments", "--dry-run"], ["make", "results", "ARGS=--dry-run"]])
def test_a_dry_run_writes_nothing(words, tmp_path):
    """The run is made in a copy of the repository, in which no file may change."""
    root = tmp_path / "copy"
    without = shutil.ignore_patterns(".*", "runs", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, root, ignore=without)
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    # This stub refuses pip, since an editable installation of the copy would replace the tested one.
    python.write_text(f'#!/bin/sh\n[ "$2" != pip ] || exit 1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for stamp in (".train", ".dev"):
        (root / ".venv" / stamp).touch()
    before = {path: path.is_file() and (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*")}
    command = [python if word == "python" else word for word in words]
    quiet = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=root, env=quiet, capture_output=True, text=True, check=True)
    assert "Left: at most about" in done.stdout
    assert {p: p.is_file() and (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*")} == before


def test_what_has_run_is_reported_and_what_has_not_is_not(tmp_path, monkeypatch):
    """Only the requested experiment's section is written; nothing is written if a run failed."""
    codes, calls = [0, 130], []
    monkeypatch.setattr(Board, "work", lambda *_: codes.pop(0))
    monkeypatch.setattr(
        "experiments.__main__.put_section", lambda page, name, title, text: calls.append((page.name, name))
    )
    words = ["--only", "learning", "--results", str(tmp_path / "none"), "--document", str(tmp_path / "results.md")]
    main([*words, "--dry-run"])
    assert not calls
    main(words)
    assert calls == [("results.md", "learning")]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert (left.value.code, len(calls)) == (130, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "retrieval", "nothing"], "--only has 'nothing', expected some of "),
        (["--cells", "lstm-3"], "--cells has 'lstm-3', expected some of lstm-"),
        (["--cells", "TMaze-lstm"], "--cells has 'TMaze-lstm', expected some of TMaze-v0-5-lstm, TMaze-v0-"),
        (["--num-workers", "0"], "--num-workers is 0"),
    ],
)
def test_a_mistake_is_one_clear_line(args, message, capsys):
    assert message in refused(capsys, main, args)
