"""experiments/gallery.py: which runs it uses or trains, and which pictures it keeps, without a browser."""

import importlib
import signal
from pathlib import Path

import pytest

TRAIN = Path(__file__).parent.parent / "train"


@pytest.fixture
def gallery(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return importlib.import_module("experiments.gallery")


def files(folder, *names):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (Path(folder) / name).write_text(name)


def test_what_is_missing_is_trained_and_what_was_begun_goes_on(gallery, monkeypatch):
    ran = []

    def run(script, *options):
        ran.append((script, *options))
        files("runs/PartialCatch-v0/b", "config.json", "result.json")

    monkeypatch.setattr(gallery, "_run", run)
    assert gallery.finished(Path("runs"), "agent") == Path("runs/PartialCatch-v0/b")
    assert ran == [("agent", *gallery.COMMANDS["agent"], "--log-dir", "runs")]
    assert gallery.finished(Path("runs"), "agent") == Path("runs/PartialCatch-v0/b")
    Path("runs/PartialCatch-v0/b/result.json").unlink()
    gallery.finished(Path("runs"), "agent")
    assert ran[1:] == [("agent", "--resume", "runs/PartialCatch-v0/b")]


def test_every_picture_shown_is_there_light_and_dark(gallery, monkeypatch):
    def run(_, __, ___, folder, *____):
        names = ("attention", "attribution", "units", "growth", "strings", "glimpses-1", "glimpses-2", "glimpses-3")
        files(folder, "play.gif", *(f"{name}-{theme}.png" for name in names for theme in ("light", "dark")))

    monkeypatch.setattr(gallery, "_run", run)
    folders = [part for name in gallery.COMMANDS for part in (f"--{name}", "run")]
    gallery.main([*folders, "--output", "out", "--no-board"])
    found = {path.name for path in Path("out").iterdir()}
    assert found > {"play.gif", "attention-light.png", "attention-dark.png", "strings-dark.png", "glimpses-1-light.png"}
    assert found > {"one-step-at-a-time-light.svg", "one-step-at-a-time-dark.svg"}
    assert "glimpses-3-light.png" not in found


def test_the_documentation_shows_what_there_is():
    root = TRAIN.parent
    committed = {path.name for path in (root / "docs" / "pictures").glob("[!.]*")}
    shown = {
        name
        for page in (root / "README.md", *(root / "docs").glob("*.md"))
        for name in committed
        if name in page.read_text()
    }
    assert shown == committed
    assert sum((root / "docs" / "pictures" / name).stat().st_size for name in committed) < 3e6


def test_without_a_browser_that_is_said(gallery, monkeypatch):
    photographs = importlib.import_module("experiments.photographs")
    monkeypatch.setattr(photographs.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="expected one of chromium"):
        next(photographs.photograph_board(Path("runs"), Path("out")))
