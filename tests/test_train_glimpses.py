"""train/glimpses.py as a user runs it, on generated images."""

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from fwagents.tasks.training import CHECKPOINT

from .scripts import Started, refused
from .scripts import run as run_script

TINY = [
    *("--data-dir", "mnist", "--validation-images", "40", "--updates", "30", "--eval-freq", "10"),
    *("--batch-size", "8", "--hidden-size", "6"),
]


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    """Make a folder with an MNIST of 160 and 50 images, and a data set of small faces whose test set lacks a class."""
    cwd = tmp_path_factory.mktemp("work")
    generator = np.random.default_rng(0)
    (cwd / "mnist").mkdir()
    for name, count in [("train", 160), ("t10k", 50)]:
        write_idx(cwd / "mnist" / f"{name}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(cwd / "mnist" / f"{name}-labels-idx1-ubyte", generator.integers(0, 10, count).astype(np.uint8))
    for split, count, names in [("train", 20, ["glad", "sad", "stern"]), ("test", 8, ["glad", "sad"])]:
        for place, name in enumerate(names):
            folder = cwd / "faces" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                face = generator.integers(0, 60, (8, 8), dtype=np.uint8)
                face[5:] += np.uint8(90 * place)
                Image.fromarray(face).save(folder / f"{i}.png")
    return cwd


def run(*args, cwd):
    return run_script("glimpses.py", *args, cwd=cwd)


@pytest.mark.parametrize(
    ("options", "core", "label"),
    [
        (["--model", "multilevel", "--inner-steps", "adaptive"], "fast_weights", "multilevel"),
        (["--model", "convnet"], "convnet", "convnet"),
        (["--core", "gru"], "gru", "gru"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_result_file(options, core, label, cwd):
    done = run(*TINY, *options, "--seed", 4, "--output", f"out/{label}.json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    (folder,) = (cwd / "runs" / "glimpses").glob(f"{label}-6-s4-*")
    found = json.loads((cwd / "out" / f"{label}.json").read_text())
    assert found == json.loads((folder / "result.json").read_text())
    assert (found["task"], found["core"], found["hidden_size"], found["seed"]) == ("glimpses", core, 6, 4)
    assert found["updates"] == 30
    assert found["test_error"] / 2 == pytest.approx(round(found["test_error"] / 2)), "of 50 test images"
    assert found["validation_error"] / 2.5 == pytest.approx(round(found["validation_error"] / 2.5)), "of 40"
    assert found["curve"]["update"] == [0, 10, 20, 30]
    assert found["config"]["dataset"] == "mnist"
    assert {"seconds", "command", "commit", "parameters"} <= found.keys()
    assert "class_accuracy" not in found


def test_folders_report_every_class(cwd):
    done = run(
        *("--dataset", "folder", "--data-dir", "faces", "--patch-size", 2, "--validation-images", 10),
        *("--model", "multilevel", "--hidden-size", 12, "--updates", 60, "--eval-freq", 20, "--batch-size", 10),
        *("--learning-rate", 0.01, "--output", "out/faces.json"),
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((cwd / "out" / "faces.json").read_text())
    assert set(found["class_accuracy"]) == {"glad", "sad"}
    # Every class is equally frequent in the test set.
    assert sum(found["class_accuracy"].values()) / 2 == pytest.approx(100 - found["test_error"])
    for name, accuracy in found["class_accuracy"].items():
        assert f"{name}: {accuracy:.2f} % right" in done.stdout


def test_killed_and_resumed_equals_unbroken(cwd, tmp_path):
    (tmp_path / "mnist").symlink_to(cwd / "mnist")
    options = [*TINY, "--updates", "200", "--model", "multilevel", "--output", "out.json", "--seed", "5"]
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mnist").symlink_to(cwd / "mnist")
    assert run(*options, cwd=tmp_path / "whole").returncode == 0
    process = Started("glimpses.py", *options, cwd=tmp_path / "cut")
    while not process.stdout.readline().startswith("70 updates"):
        assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = (tmp_path / "cut" / "runs" / "glimpses").iterdir()
    done = run("--resume", folder, cwd=tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    results, kept = [], []
    for name in ("whole", "cut"):
        result = json.loads((tmp_path / name / "out.json").read_text())
        del result["seconds"], result["command"]
        results.append(result)
        (folder,) = (tmp_path / name / "runs" / "glimpses").iterdir()
        kept.append(torch.load(folder / CHECKPOINT, weights_only=True))
    assert results[0] == results[1]
    for part in ("model", "optimizer", "best_weights"):
        torch.testing.assert_close(kept[0][part], kept[1][part], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "multilevel", "--core", "lstm"], "--core is lstm, expected fast_weights for --model multilevel"),
        (["--model", "convnet", "--core", "lstm"], "--model convnet has no core"),
        (["--model", "convnet", "--decay", "0.9"], "--model convnet has no core"),
        (["--core", "lstm", "--fast-lr", "0.9"], "core 'lstm' has no option 'fast_lr'"),
        (["--patch-size", "8"], "--patch-size is 8, expected 7 for mnist"),
        (["--validation-images", "160"], "validation_images is 160, expected 1 to 159"),
        (["--data-dir", "nowhere"], "nowhere has neither train-images-idx3-ubyte"),
        (["--hidden-size", "0", "--model", "convnet"], "--hidden-size is 0"),
        (["--dataset", "folder", "--data-dir", "mnist"], "mnist/train does not exist"),
        (["--dataset", "folder", "--data-dir", "faces", "--patch-size", "0"], "--patch-size is 0"),
        (["--resume", "other"], "does not describe a run of fwagents glimpses"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, list) else "",
)
def test_a_mistake_is_one_clear_line(args, message, cwd, tmp_path, monkeypatch, capsys):
    for name in ("mnist", "faces"):
        (tmp_path / name).symlink_to(cwd / name)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"args": {"pairs": 4}}')
    monkeypatch.chdir(tmp_path)
    from fwagents.commands.glimpses import main

    assert message in refused(capsys, main, args if args[0] == "--resume" else [*TINY, *args])
    assert not (tmp_path / "runs").exists()


def test_folders_need_a_folder(monkeypatch, capsys):
    from fwagents.commands.glimpses import main

    with pytest.raises(SystemExit):
        main(["--dataset", "folder"])
    assert "--dataset folder needs --data-dir" in capsys.readouterr().err
