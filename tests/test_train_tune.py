"""train/tune.py as a user runs it: it searches, resumes, and reports."""

import json
import signal
import time

import pytest

from fwagents.settings import AGENT_CORE

from .scripts import TRAIN, Started, refusal
from .scripts import run as run_script

TINY = ["--env", "PartialCatch-v0", "--total-timesteps", "400", "--hidden-size", "4", "--seeds", "100", "101"]


def run(*args, cwd):
    return run_script("tune.py", *args, cwd=cwd)


COMMON = {"learning_rate", "vf_coef", "ent_coef", "gae_lambda", "critic_core", "max_grad_norm", "num_envs"}
OWN = {"fast_lr", "decay", "inner_steps", "identity_scale"}


def test_a_search_goes_on_where_it_stopped(tmp_path):
    pytest.importorskip("optuna")
    search = [*TINY, "--core", "fast_weights"]
    first = run(*search, "--trials", 1, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    path = tmp_path / "runs" / "tuning" / "PartialCatch-v0-fast_weights.json"
    (before,) = json.loads(path.read_text())["trials"]
    # The search begins with the environment's and the core's defaults.
    known = {
        "learning_rate": 1e-3,
        "vf_coef": 0.05,
        "num_envs": 64,
        "fast_lr": 0.03,
        "decay": 0.95,
        "identity_scale": 1.0,
    }
    assert known.items() <= before["setting"].items()
    done = run(*search, "--trials", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2/2: " in done.stdout
    result = json.loads(path.read_text())
    assert result["trials"][0] == before
    assert len(result["trials"]) == 2
    assert result["winner"] == max(result["trials"], key=lambda trial: trial["value"])
    assert result["command"].startswith("python ")
    assert {"commit", "versions", "objective"} <= result.keys()
    assert result["seeds"] == [100, 101]
    assert set(result["space"]) == COMMON | OWN
    settings = [trial["setting"] for trial in result["trials"]]
    assert settings[0] != settings[1]
    for trial in result["trials"]:
        assert set(trial["setting"]) == set(result["space"])
        assert 3e-4 <= trial["setting"]["learning_rate"] <= 5e-3
        assert len(trial["areas"]) == 2
        assert trial["value"] == pytest.approx(sum(trial["areas"]) / 2)
        assert -1 <= trial["value"] <= 1

    other = run(*search, "--total-timesteps", "500", cwd=tmp_path)
    assert other.returncode == 2
    assert "holds a search with steps 400, expected 500" in other.stderr
    assert json.loads(path.read_text()) == result


def test_what_other_cores_found_is_tried_too(tmp_path):
    """Each winner is tried once with the best of this core's own options; borrowed winners are not lent on."""
    pytest.importorskip("optuna")
    rows = [(0.5, 0.002, 16, {}), (0.1, 0.003, 32, {}), (0.9, 0.004, 64, {"borrowed_from": "x.json"})]
    shared = {"vf_coef": 0.1, "ent_coef": 0.01, "gae_lambda": 0.9, "critic_core": "shared", "max_grad_norm": 0.25}
    trials = [
        {"value": value, "setting": {"learning_rate": rate, "num_envs": envs, **shared}, **more}
        for value, rate, envs, more in rows
    ]
    lstm = tmp_path / "lstm.json"
    lstm.write_text(json.dumps({"env": "PartialCatch-v0", "trials": trials}))
    path = tmp_path / "runs" / "tuning" / f"PartialCatch-v0-{AGENT_CORE}.json"
    for _ in range(2):
        done = run(*TINY, "--trials", 2, "--borrow", "lstm.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        *own, last = json.loads(path.read_text())["trials"]
        assert len(own) == 2
        best = max(own, key=lambda trial: trial["value"])["setting"]
        assert last["setting"] == {**best, **shared, "learning_rate": 0.002, "num_envs": 16}
        assert last["borrowed_from"] == "lstm.json"
        assert json.loads(path.read_text())["borrowed"] == ["lstm.json"]


@pytest.mark.parametrize("content", [{"env": "Catch-v0", "trials": []}, {"env": "PartialCatch-v0"}, []])
def test_what_is_no_search_lends_nothing(content, tmp_path):
    """The error comes before the first trial, in one line."""
    pytest.importorskip("optuna")
    (tmp_path / "lstm.json").write_text(json.dumps(content))
    done = run(*TINY, "--trials", 2, "--borrow", "lstm.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "--borrow has lstm.json, expected the result of a search on PartialCatch-v0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.journal"))


def test_the_best_and_the_first_go_on_for_longer(tmp_path):
    """The starting settings are the core's defaults, here the LSTM's, and the game's, with which other cores begin."""
    pytest.importorskip("optuna")
    path = tmp_path / "runs" / "tuning" / "PartialCatch-v0-lstm.json"
    command = [*TINY, "--core", "lstm", "--trials", 4]
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = json.loads(path.read_text())
    longer = [*command, "--finalists", 2, "--final-steps", 2000]
    done = run(*longer, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["trials"] == before["trials"]
    best = sorted(result["trials"], key=lambda trial: -trial["value"])[:2]
    finalists = result["finalists"]
    first, second, *_ = sorted(result["trials"], key=lambda trial: trial["number"])
    assert (first["setting"]["num_envs"], second["setting"]["num_envs"]) == (16, 64), "the core's and the game's"
    others = sorted((trial for trial in (first, second) if trial not in best), key=lambda trial: -trial["value"])
    wanted = [*best, *others]
    assert [row["number"] for row in finalists] == [trial["number"] for trial in wanted]
    assert [row["setting"] for row in finalists] == [trial["setting"] for trial in wanted]
    assert all(row["areas"] != result["trials"][row["number"]]["areas"] for row in finalists)
    assert result["winner"] == max(finalists, key=lambda row: row["value"])
    done = run(*longer, cwd=tmp_path)
    assert json.loads(path.read_text()) == result, "none is run twice"


def test_a_search_stopped_by_ctrl_c_says_how_to_go_on(tmp_path):
    pytest.importorskip("optuna")
    kept = tmp_path / "runs" / "tuning" / f"PartialCatch-v0-{AGENT_CORE}.json"
    process = Started("tune.py", *TINY, "--trials", "10000", cwd=tmp_path)
    end = time.monotonic() + 120
    while not kept.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "Interrupted; the same command goes on.\n"
    had = json.loads(kept.read_text())["trials"]
    done = run(*TINY, "--trials", len(had) + 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(kept.read_text())["trials"][: len(had)] == had


COMMITTED = TRAIN.parent / "results" / "tuning" / "PartialCatch-v0-gru.json"
AGAIN = ["--total-timesteps", "500000", "--seeds", "100", "101"]  # the committed search


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (
            COMMITTED.read_text(),
            ["--total-timesteps", "3000", "--seeds", "100"],
            "a search with steps 500000, expected 3000",
        ),
        (COMMITTED.read_text(), [*AGAIN, "--core", "lstm"], "a search with core 'gru', expected 'lstm'"),
        (COMMITTED.read_text(), AGAIN, "kept.json is of a search whose kept.journal is gone"),
        ('{"winner": 1}', AGAIN, "kept.json is not the result of such a search"),
        ("[]", AGAIN, "kept.json is not the result of such a search"),
        ("trials: none", AGAIN, "kept.json is not JSON"),
    ],
)
def test_a_search_replaces_no_result_but_its_own(content, words, message, tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "kept.json").write_text(content)
    command = ["--env", "PartialCatch-v0", "--core", "gru", "--trials", 1, "--output", "kept.json", *words]
    assert message in refusal(run(*command, cwd=tmp_path))
    assert (tmp_path / "kept.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]


def test_a_user_s_search_leaves_the_committed_results_alone(tmp_path):
    pytest.importorskip("optuna")
    kept = tmp_path / "results" / "tuning" / COMMITTED.name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(COMMITTED.read_bytes())
    done = run(*TINY, "--core", "gru", "--trials", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert kept.read_bytes() == COMMITTED.read_bytes()
    assert [path.name for path in kept.parent.iterdir()] == [COMMITTED.name]
    assert len(json.loads((tmp_path / "runs" / "tuning" / COMMITTED.name).read_text())["trials"]) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trials", "0"], "--trials is 0, expected at least 1"),
        (["--env", "NoSuch-v0", "--trials", "1"], "NoSuch"),
        (["--total-timesteps", "20", "--env", "Pendulum-v1", "--trials", "1"], "no episode ended in 20 steps"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, list) else "",
)
def test_a_mistake_is_one_clear_line(args, message, tmp_path):
    pytest.importorskip("optuna")
    assert message in refusal(run(*args, cwd=tmp_path))


def test_every_core_gets_the_same_search(monkeypatch):
    from fwagents.cores import CORES
    from fwagents.runs.search import space

    spaces = {core: space(core) for core in CORES}
    for core, parts in spaces.items():
        assert set(parts) == COMMON | (OWN if core == "fast_weights" else set())
        assert all(parts[name] == spaces["lstm"][name] for name in COMMON)


def test_the_area_under_a_curve(monkeypatch):
    from fwagents.runs.search import area

    # Four pieces of 25 have the means 1, none, 4 and 6; the second is interpolated.
    steps, returns = [10, 20, 60, 70, 100], [0.0, 2.0, 3.0, 5.0, 6.0]
    assert area(steps, returns, 100, pieces=4) == pytest.approx((1 + 2.5 + 4 + 6) / 4)
    assert area([50], [3.0], 100) == 3
    with pytest.raises(ValueError, match="no episode"):
        area([], [], 100)
