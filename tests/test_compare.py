"""fwagents compare on small folders made here, against numbers by hand, and on a run of stock Stable-Baselines3."""

import csv
import json
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fwagents.commands.compare import main
from fwagents.comparison import compare, estimates
from fwagents.comparison.labels import NUMBER, find_runs, grouped, shortest_tails
from fwagents.comparison.run_files import RunFiles, read_evaluations
from fwagents.runs.agent import Args

from .scripts import refused
from .test_comparison_curves import write


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(estimates, "REPS", 200)


def ours(name, returns, *, steps=(100, 200, 300), final=None, fps=1000, env="Game-v0", env_kwargs=(), **options):
    """A run of fwagents agent: its evaluations, two episodes each, a log and, once it is over, a result."""
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    args = asdict(Args(env=env, **options)) | {"log_dir": "runs"}
    config = {"args": args, "env_kwargs": dict(env_kwargs), "policy_kwargs": {"core_kwargs": {}}}
    (folder / "config.json").write_text(json.dumps(config))
    results = np.array([[value - 1, value + 1] for value in returns], float)
    np.savez(folder / "evaluations.npz", timesteps=list(steps), results=results)
    (folder / "progress.csv").write_text(f"time/fps,time/total_timesteps,rollout/ep_rew_mean\n7,50,\n{fps},99,0.5\n")
    if final is not None:
        (folder / "result.json").write_text(json.dumps({"steps": 300, "final_model": {"mean_return": final}}))
    return folder


def said(capsys, *words):
    """Run the command, which has to fail; return its line of error."""
    return refused(capsys, main, [str(word) for word in words])


def test_two_cores_by_hand(capsys):
    """The level is 90 % of the way from 0, where the GRU begins, to 10, its final return: 9."""
    ours("gru-0", [0, 9, 10], final=10.0, core="gru", seed=0)
    ours("gru-1", [0, 4, 9], final=10.0, core="gru", seed=1, fps=3000)
    ours("lstm-0", [1, 2, 3], final=6.0, core="lstm", seed=0)
    ours("lstm-1", [1, 9, 3], final=2.0, core="lstm", seed=1)
    (panel,) = compare(["runs"])
    assert (panel.environment, panel.measure, panel.level) == ("Game-v0", "evaluation", 9.0)
    gru, lstm = panel.rows()
    assert gru == {
        **{"environment": "Game-v0", "setting": "core=gru", "seeds": 2, "finished": 2, "measure": "evaluation"},
        **{"final_return": 10.0, "low": 10.0, "high": 10.0, "level": 9.0},
        **{"steps_to_level": 250.0, "reached": 2, "steps_per_second": 2000.0},
    }
    assert (lstm["final_return"], lstm["low"], lstm["high"]) == (4.0, 2.0, 6.0)
    assert (lstm["steps_to_level"], lstm["reached"]) == (None, 1), "half of them never: the median is infinite"
    assert panel.steps.tolist() == [100, 200, 300]
    assert panel.settings[0].band.value.tolist() == [0, 6.5, 9.5]
    assert panel.settings[0].band.high.tolist() == [0, 9, 10]

    main(["runs", "--level", "3.5", "--output", "a.png", "a.svg", "a.csv", "b/a.json"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "steps to 3.5" in printed
    (line,) = (line for line in printed.splitlines() if "core=gru" in line)
    assert line.split() == ["1", "core=gru", "2", "10.0", "(10.0", "to", "10.0)", "200", "(2/2)", "2,000"]
    with Image.open("a.png") as image:
        darkest, lightest = image.convert("L").getextrema()
        assert lightest - darkest > 100
    assert "core=lstm" in Path("a.svg").read_text()
    with open("a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps_to_level"], row["reached"]) for row in rows] == [("200.0", "2"), ("", "1")]
    (written,) = json.loads(Path("b/a.json").read_text())
    assert written["curves"]["core=gru"]["value"] == [0, 6.5, 9.5]
    assert written["runs"]["core=lstm"][1]["folder"] == "runs/lstm-1"


def test_a_run_that_still_trains_is_shown_as_far_as_it_is(capsys):
    ours("a", [0, 1, 2], final=2.0, seed=0)
    ours("b", [0, 3], steps=(100, 200), seed=1)
    Path("runs/b/result.json").write_text(json.dumps({"steps": 200, "stopped": "why", "resumable": True}))
    (panel,) = compare(["runs"])
    (setting,) = panel.settings
    assert setting.label == "core=rotary_fast_weights"
    assert setting.band.value.tolist() == [0, 2, 2]
    assert setting.band.seeds.tolist() == [2, 2, 1]
    assert (setting.final.value, panel.rows()[0]["finished"]) == (2.5, 1)
    main(["runs"])
    assert "Not finished, and counted as far as they are: 1 of the runs." in capsys.readouterr().out


def test_a_label_names_the_first_options_that_tell_apart():
    """The step size follows the core here; the width splits one core further."""
    for core, rate, width in [("gru", 0.1, 8), ("lstm", 0.2, 8), ("lstm", 0.2, 16)]:
        for seed in (0, 1):
            ours(f"{core}-{width}-{seed}", [0, 1, 2], core=core, learning_rate=rate, hidden_size=width, seed=seed)
    runs = find_runs([Path("runs")])
    groups, also = grouped(runs)
    assert {label: len(group) for label, group in groups.items()} == {
        **{"core=gru, hidden_size=8": 2, "core=lstm, hidden_size=8": 2, "core=lstm, hidden_size=16": 2}
    }
    assert also == ["learning_rate"]
    groups, also = grouped(runs, ["learning_rate"])
    assert {label: len(group) for label, group in groups.items()} == {"learning_rate=0.1": 2, "learning_rate=0.2": 4}
    assert also == ["core", "hidden_size"]
    assert set(grouped(runs, ["run"])[0]) == {run.folder.name for run in runs}
    assert set(grouped(runs, ["parent"])[0]) == {"runs"}


def test_an_option_that_is_newer_than_a_run_has_its_default():
    ours("new", [0, 1, 2])
    old = ours("old", [0, 1, 2], seed=1)
    config = json.loads((old / "config.json").read_text())
    del config["args"]["observe"]
    (old / "config.json").write_text(json.dumps(config))
    assert list(grouped(find_runs([Path("runs")]))[0]) == ["core=rotary_fast_weights"]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(("PPO_1", "PPO"), ("PPO_12", "PPO"), ("CartPole-v1_2", "CartPole-v1"), ("CartPole-v1", "CartPole-v1")),
        *(
            ("ppo-seed3", "ppo"),
            ("ppo_seed_3", "ppo"),
            ("ppo-s3", "ppo"),
            ("seed_0", ""),
            ("3", ""),
            ("lr_0.001", "lr_0.001"),
        ),
    ],
)
def test_the_number_at_a_name_s_end_is_the_seed(name, setting):
    assert NUMBER.sub("", name) == setting


def test_names_are_as_long_as_they_must_be():
    a, b, c = Path("/x/a/ppo"), Path("/x/b/ppo"), Path("/x/b/dqn")
    assert shortest_tails([a, b, c]) == {a: "a/ppo", b: "b/ppo", c: "dqn"}


def test_runs_of_stable_baselines3_are_grouped_by_their_names():
    for name in ("ppo/seed_0", "ppo/seed_1", "other/PPO_1", "again/PPO_1"):
        Path("logs", name).mkdir(parents=True)
        write(Path("logs", name, "monitor.csv"), [(1.0, 10, 1.0), (3.0, 10, 2.0)])
    (panel,) = compare(["logs"], window=1)
    assert {setting.label: len(setting.seeds) for setting in panel.settings} == {
        **{"ppo": 2, "other/PPO": 1, "again/PPO": 1}
    }
    (panel,) = compare(["logs/o*/*", "logs/again"], window=1, group_by=["run"])
    assert {setting.label for setting in panel.settings} == {"other/PPO_1", "again/PPO_1"}


def test_each_environment_has_its_panel(capsys):
    ours("a", [0, 1, 2])
    ours("b", [0, 1, 2], env="module:Other-v0", env_kwargs={"size": 5})
    Path("runs/c").mkdir()
    write(Path("runs/c/monitor.csv"), [(1.0, 10, 1.0)] * 3, env="Third-v0")
    Path("runs/d").mkdir()
    write(Path("runs/d/monitor.csv"), [], env="Third-v0")
    panels = compare(["runs"], window=2)
    assert [panel.environment for panel in panels] == ["Game-v0", "Other-v0, size=5", "Third-v0"]
    assert [panel.measure for panel in panels] == ["evaluation", "evaluation", "training"]
    assert panels[2].left_out == ("runs/d: no episode so far, expected at least 2, the window of the mean",)
    main(["runs", "--window", "2", "--output", "a.svg"])
    assert "Left out: runs/d: no episode so far" in capsys.readouterr().out.replace("\n", " ")
    assert "Other-v0, size=5" in Path("a.svg").read_text()


def test_training_is_compared_where_a_setting_has_no_evaluations():
    ours("a", [0, 1, 2], core="gru")
    (ours("b", [0, 1, 2], core="lstm") / "evaluations.npz").unlink()
    (panel,) = compare(["runs"])
    assert panel.measure == "training"
    assert [setting.final.value for setting in panel.settings] == [0.5, 0.5]
    (panel,) = compare(["runs"], measure="evaluation")
    assert [setting.label for setting in panel.settings] == ["core=gru"]
    assert panel.left_out == ("runs/b: no evaluation returns so far",)


def test_mistakes_are_one_line(capsys):
    assert said(capsys, "nowhere") == "error: nowhere is no folder\n"
    Path("empty").mkdir()
    assert said(capsys, "empty").startswith("error: empty holds no run: no evaluations.npz, progress.csv, ")
    write(Path("empty/monitor.csv"), [])
    assert "no run has returns to compare: empty: no episode so far" in said(capsys, "empty")
    Path("empty/monitor.csv").write_text("")
    assert "no run has returns to compare: empty: no training returns so far" in said(capsys, "empty")
    Path("empty/monitor.csv").write_text("r,l,t\n1,2,3\n")
    assert "error: empty/monitor.csv is damaged: line 1 is 'r,l,t'" in said(capsys, "empty")
    folder = ours("a", [0, 1, 2])
    assert "grouped by 'cor', expected name, parent, run or an option" in said(capsys, "runs", "--group-by", "cor")
    assert "--output is a.txt, expected a name that ends in .png" in said(capsys, "runs", "--output", "a.txt")
    assert "expected the name of a file" in said(capsys, "runs", "--output", "empty", "a.png")
    assert "--window does nothing with --curve evaluation" in said(
        capsys, "runs", "--curve", "evaluation", "--window", "5"
    )
    (folder / "progress.csv").write_text("time/fps,time/total_timesteps\n7,x\n")
    assert "runs/a/progress.csv is damaged: line 2 is '7,x'" in said(capsys, "runs")
    (folder / "evaluations.npz").write_bytes(b"no archive")
    assert "runs/a/evaluations.npz is damaged: " in said(capsys, "runs")
    (folder / "config.json").write_text("{")
    assert "runs/a/config.json is not JSON" in said(capsys, "runs")


def test_a_stock_run_of_ppo(capsys):
    """Monitor, TensorBoard and EvalCallback of one run give what Stable-Baselines3 itself reads from them."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.monitor import load_results
    from stable_baselines3.common.results_plotter import ts2xy

    venv = make_vec_env("CartPole-v1", 2, seed=0, monitor_dir="logs/PPO_1")
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")
    for folder in ("board/PPO_1", "csv/PPO_1"):
        Path(folder).mkdir(parents=True)
    logger = configure("board/PPO_1", ["tensorboard"])
    logger.output_formats += configure("csv/PPO_1", ["csv"]).output_formats
    model.set_logger(logger)
    callback = EvalCallback(make_vec_env("CartPole-v1", 1), n_eval_episodes=2, eval_freq=64, log_path="eval/PPO_1")
    model.learn(384, callback=callback)
    venv.close()
    logger.close()

    steps, returns = ts2xy(load_results("logs/PPO_1"), "timesteps")
    (panel,) = compare(["logs"], window=1)
    (setting,) = panel.settings
    assert (panel.environment, setting.label) == ("CartPole-v1", "PPO")
    assert setting.seeds[0].curve.steps.tolist() == steps.tolist()
    assert setting.seeds[0].curve.returns.tolist() == returns.tolist()
    evaluated = read_evaluations(Path("eval/PPO_1/evaluations.npz"))
    for folder in ("board/PPO_1", "csv/PPO_1"):
        run = RunFiles(Path(folder))
        logged = run.curve("training", 1)
        assert logged.steps.tolist() == [128, 256, 384]
        for at, value in zip(*logged, strict=True):  # SB3's mean of up to 100 episodes at the end of a rollout
            assert value == pytest.approx(returns[steps <= at].mean(), abs=20)
        assert run.curve("evaluation", 1).steps.tolist() == evaluated.steps.tolist() == [128, 256, 384]
        assert run.curve("evaluation", 1).returns == pytest.approx(evaluated.returns, abs=1e-3)
        assert run.steps_per_second > 1
    main(["logs", "board", "--window", "5"])
    assert "environment not recorded: " in capsys.readouterr().out
