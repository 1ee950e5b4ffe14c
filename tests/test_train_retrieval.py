"""train/retrieval.py as a user runs it: the run's folder, its result, resuming, and error messages."""

import fcntl
import json
import random
import shutil
import signal
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fwagents.tasks.data import Examples, Splits
from fwagents.tasks.training import CHECKPOINT, Trainer, TrainingOptions

from .runs import run_folder
from .scripts import Started, refusal, refused
from .scripts import run as run_script

TINY = [
    *("--hidden-size", "6", "--pairs", "2", "--alphabet", "abcd", "--batch-size", "8", "--eval-freq", "20"),
    *("--train-strings", "300", "--validation-strings", "60", "--test-strings", "50", "--learning-rate", "0.01"),
]


def run(*args, cwd):
    return run_script("retrieval.py", *args, cwd=cwd)


OPTIONS = [*TINY, "--updates", "300", "--seed", "3", "--test-curve", "--output", "out/result.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder in which a tiny run was made, and its output."""
    cwd = tmp_path_factory.mktemp("work")
    done = run(*OPTIONS, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd, done.stdout


def result(cwd):
    return json.loads((cwd / "out" / "result.json").read_text())


def test_result_file(trained):
    cwd, printed = trained
    folder = run_folder(cwd)
    assert folder.name.startswith("fast_weights-6-s3-")
    assert (folder / "result.json").read_text() == (cwd / "out" / "result.json").read_text()
    found = result(cwd)
    assert (found["task"], found["core"], found["hidden_size"], found["seed"]) == ("retrieval", "fast_weights", 6, 3)
    assert (found["updates"], found["stopped"]) == (300, "updates")
    # There are 50 test strings.
    assert 0 <= found["test_error"] <= 100
    assert found["test_error"] / 2 == pytest.approx(round(found["test_error"] / 2))
    assert found["command"].startswith("python ")
    assert "--test-curve" in found["command"]
    assert found["seconds"] > 0
    assert {"commit", "versions"} <= found.keys()
    config = found["config"]
    assert config["pairs"] == 2
    assert found["core_kwargs"] == {"decay": 0.95, "fast_lr": 0.5}, "what suits the task stands in fwagents/settings.py"
    curve = found["curve"]
    assert curve["update"] == list(range(0, 301, 20))
    assert curve["loss"][0] is None
    best = min(range(16), key=lambda i: (curve["validation_error"][i], curve["validation_nll"][i]))
    assert found["best_update"] == curve["update"][best]
    assert found["validation_error"] == curve["validation_error"][best]
    # The test curve was measured on the same weights.
    assert curve["test_nll"][best] == found["test_nll"]
    assert f"Test error {found['test_error']:.2f} %" in printed
    assert "tensorboard.main --logdir" in printed


def test_tensorboard(trained):
    events = EventAccumulator(str(run_folder(trained[0]))).Reload()
    scalars = {tag: [s.step for s in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["train/loss"] == scalars["train/learning_rate"] == list(range(20, 301, 20))
    assert scalars["validation/error"] == scalars["validation/nll"] == scalars["test/nll"] == list(range(0, 301, 20))


@pytest.mark.parametrize("kills", [pytest.param([1], marks=pytest.mark.slow), [4, 9]], ids=str)
def test_killed_and_resumed_equals_unbroken(trained, kills, tmp_path):
    """After SIGKILL at a random moment, weights, Adam's moments, curve and result are bitwise equal."""
    arguments = OPTIONS
    for after in kills:
        process = Started("retrieval.py", *arguments, cwd=tmp_path)
        while not process.stdout.readline().startswith(f"{20 * after} updates"):
            assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(random.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "out" / "result.json").exists()
        arguments = ["--resume", run_folder(tmp_path)]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Resumed" in done.stdout
    ours, theirs = result(tmp_path), result(trained[0])
    for found in (ours, theirs):
        del found["seconds"]
    assert ours == theirs
    kept = [torch.load(run_folder(cwd) / CHECKPOINT, weights_only=True) for cwd in (tmp_path, trained[0])]
    for name in ("model", "optimizer", "best_weights", "torch"):
        torch.testing.assert_close(kept[0][name], kept[1][name], rtol=0, atol=0)


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_go_on(interrupt, tmp_path):
    process = Started("retrieval.py", *TINY, "--updates", "100000", cwd=tmp_path)
    while not process.stdout.readline().startswith("40 updates"):
        assert process.poll() is None
    process.send_signal(interrupt)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted after" in printed
    assert f"-m fwagents retrieval --resume {run_folder(tmp_path).relative_to(tmp_path)}" in printed


def test_a_search_leaves_the_test_set_alone(tmp_path):
    done = run(*TINY, "--updates", "20", "--no-test", "--core", "gru", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((run_folder(tmp_path) / "result.json").read_text())
    assert found["test_error"] is None
    assert found["test_nll"] is None
    assert found["core_kwargs"] == {}
    assert "Test error" not in done.stdout


def test_only_the_same_run_replaces_a_result(tmp_path):
    same = [*TINY, "--updates", "40", "--output", "kept.json"]
    assert run(*same, cwd=tmp_path).returncode == 0
    kept = tmp_path / "kept.json"
    first = kept.read_bytes()
    for content, options in (
        (first, ["--seed", "1"]),
        (first, ["--updates", "60"]),
        (b'{"config": 1}', []),
        (b"[]", []),
    ):
        kept.write_bytes(content)
        done = run(*same, *options, "--log-dir", "more", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == (
            "error: output is kept.json, which holds something else, expected no file or this run's result\n"
        )
        assert kept.read_bytes() == content
        assert not (tmp_path / "more").exists()
    kept.write_bytes(first)
    assert run(*same, "--log-dir", "again", cwd=tmp_path).returncode == 0
    assert json.loads(kept.read_text())["curve"] == json.loads(first)["curve"]


def test_no_inner_steps_is_not_the_default(tmp_path):
    done = run(*TINY, "--updates", "20", "--inner-steps", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((run_folder(tmp_path) / "result.json").read_text())
    assert found["core_kwargs"] == {"decay": 0.95, "fast_lr": 0.5, "inner_steps": 0}


@pytest.mark.parametrize(("tolerance", "reads"), [(1e9, 1), (1e-12, 3 - 1 / 7)])
def test_an_adaptive_memory_s_reads_are_counted(tolerance, reads, tmp_path):
    """There is one read if every move is small, and three if none is, except two at the first step: A is empty."""
    options = ["--inner-steps", "adaptive", "--core-kwargs", f"tolerance={tolerance}", "max_inner_steps=3"]
    options += ["--decay", "0.9", "--fast-lr", "1"]  # so strong that no read settles exactly
    assert run(*TINY, "--updates", "20", *options, cwd=tmp_path).returncode == 0
    assert json.loads((run_folder(tmp_path) / "result.json").read_text())["inner_steps_taken"] == pytest.approx(reads)


def test_a_run_that_diverges_says_so(tmp_path):
    core = ("--core", "irnn", "--core-kwargs", "identity_scale=1e5")  # its gradient overflows
    done = run(*TINY, "--updates", "100", *core, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "gradient norm is" in done.stderr
    found = json.loads((run_folder(tmp_path) / "result.json").read_text())
    assert found["stopped"] in done.stderr
    assert found["best_update"] == 0
    assert found["test_error"] > 50, "of the weights that validation chose before that"
    assert (run_folder(tmp_path) / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--core", "lstm", "--decay", "0.9"], "core 'lstm' has no option 'decay'"),
        (["--core-kwargs", "decay"], "--core-kwargs got 'decay', expected name=value"),
        (["--inner-steps", "-1"], "--inner-steps is -1, expected at least 0 or adaptive or None"),
        (["--inner-steps", "adaptive", "--core-kwargs", "tolerance=-1"], "tolerance is -1"),
        (["--hidden-size", "0"], "--hidden-size is 0, expected at least 1"),
        (["--updates", "0"], "--updates is 0"),
        (["--threads", "0"], "--threads is 0, expected at least 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--data-seed", "-1"], "--data-seed is -1"),
        (["--pairs", "27"], "pairs is 27, expected at most 26"),
        (["--alphabet", "aab", "--pairs", "2"], "alphabet is 'aab'"),
        (["--pairs", "1", "--alphabet", "a"], "expected at most 10 together"),
        (["--test-strings", "0"], "--test-strings is 0"),
        (["--log-dir", "file"], "file"),
        (["--output", "file/result.json"], "file"),
        (["--resume", "nowhere"], "nowhere is no run"),
        (["--resume", "empty"], "empty is no run"),
        (["--resume", "other"], "does not describe a run of fwagents retrieval"),
        (["--resume", "other", "--seed", "1"], "--resume takes every option from"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, list) else "",
)
def test_a_mistake_is_one_clear_line(args, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"args": {"env": "PartialCatch-v0"}}')
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    from fwagents.commands.retrieval import main

    assert message in refused(capsys, main, args)
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def test_a_run_without_a_checkpoint_begins_again(trained, tmp_path):
    whole, folder = run_folder(trained[0]), tmp_path / "run"
    folder.mkdir()
    shutil.copy(whole / "config.json", folder)
    (folder / ".checkpoint.pt.1.tmp").touch()
    done = run("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (folder, whole))
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert not list(folder.glob(".*")), "temporary files are gone"


def test_any_flipped_bit_is_harmless_or_found(tmp_path):
    """Bits are flipped in the numbers too, whose checksums torch does not verify."""
    torch.manual_seed(0)
    examples = Examples(torch.randn(40, 3), torch.randint(0, 2, (40,)))
    options = TrainingOptions(updates=4, eval_freq=2)

    def trainer():
        return Trainer(nn.Linear(3, 2), Splits(examples, examples, examples), options, tmp_path)

    trained = trainer()
    trained.train()
    path = tmp_path / CHECKPOINT
    whole, rng, found = path.read_bytes(), random.Random(0), 0
    for place in rng.sample(range(len(whole)), 400):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        loaded = trainer()
        try:
            loaded.load()
        except ValueError:
            found += 1
            continue
        assert (loaded.update, loaded.curve) == (trained.update, trained.curve)
        torch.testing.assert_close(loaded.model.state_dict(), trained.model.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(loaded.best_weights, trained.best_weights, rtol=0, atol=0)
    assert found > 200


def test_one_process_at_a_time(trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run_folder(trained[0]) / "config.json", folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("--resume", folder, cwd=tmp_path)
    assert "in use by another process" in refusal(done)


def test_what_cannot_be_resumed_is_one_line(trained, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.json").write_text((run_folder(trained[0]) / "config.json").read_text())
    (folder / "checkpoint.pt").touch()
    for cwd, path, message in [
        (tmp_path, folder, "is not a whole checkpoint"),
        (trained[0], run_folder(trained[0]), "is finished"),
    ]:
        assert message in refusal(run("--resume", path, cwd=cwd))
