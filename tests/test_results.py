"""The sections of experiments/ on invented results: their numbers appear, and missing results are marked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from .scripts import refused

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "results.md").read_text()
PAGE = (ROOT / "docs" / "inner-steps.md").read_text()
SECTIONS = ("retrieval", "harder", "glimpses", "language")


@pytest.fixture
def train(monkeypatch):
    """Import the command, and collect the supervised cells of all experiments."""
    from experiments import __main__, glimpses, harder, inner_steps, language, retrieval

    found = [cell for each in (retrieval, harder, glimpses, inner_steps, language) for cell in each.CELLS]
    return type("Train", (), {"CELLS": [cell for cell in found if cell.script != "agent"], "main": __main__.main})


@pytest.fixture
def results(tmp_path, train):
    """Return a function that writes results, given a cell's name and the test errors of its first seeds."""
    cells = {cell.name: cell for cell in train.CELLS}

    def write(name, *errors, nll=(2.0, 0.5, 0.05), memory=(("decay", 0.85), ("fast_lr", 0.75))):
        cell = cells[name]
        for seed, error in zip(cell.seeds, errors, strict=False):
            path = tmp_path / "results" / cell.script / f"{name}-s{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            result = {
                **(
                    {"test_bits": error, "validation_bits": 1.7, "test_error": 55.0, "hidden_size": 436}
                    if cell.group == "language"
                    else {"test_error": error}
                ),
                "updates": 3000,
                "seconds": 6.3,
                "parameters": 12345,
                "inner_steps_taken": 1.25,
                "commit": "abc1234",
                "versions": {"torch": "2.99"},
                "config": {"learning_rate": 0.002, "lr_schedule": "cosine", "updates": 77_000},
                "core_kwargs": dict(memory) if "fast" in name else {},
                "curve": {"update": [0, 1000, 2000], "test_nll": list(nll)},
            }
            path.write_text(json.dumps(result))

    return write


@pytest.fixture(autouse=True)
def documents(tmp_path):
    """Make the documents that the sections go into."""
    (tmp_path / "results.md").write_text(DOCUMENT)
    (tmp_path / "inner-steps.md").write_text(PAGE)


def report(train, tmp_path, *more):
    """Write the sections and return them by name."""
    folders = ["--results", str(tmp_path / "results"), "--document", str(tmp_path / "results.md")]
    train.main(["--no-run", "--only", *SECTIONS, *more, *folders])
    text = (tmp_path / "results.md").read_text() + (tmp_path / "inner-steps.md").read_text()
    found = {}
    for name in (*SECTIONS, *more):
        begin, end = f"<!-- {name}: written by a command, do not edit -->", f"<!-- end of {name} -->"
        found[name] = text[text.index(begin) + len(begin) : text.index(end)]
    return found


def row(text, first):
    """Return the cells of the row that begins with ``first``, in the first table that has such a row."""
    (line, *_) = re.findall(rf"^\| {re.escape(first)} \|.*$", text, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_nothing_run(train, tmp_path):
    sections = report(train, tmp_path)
    for text in sections.values():
        assert " 0 of " in text
        assert "not run" in text
        assert "| yes |" not in text
        assert "| no |" not in text
        assert "![" not in text
    assert row(sections["retrieval"], "LSTM") == ["not run", "not run", "60.81", "not run", "1.85", "not run", "0"]
    assert row(sections["glimpses"], "GRU") == ["not run", ""] * 3
    assert not (tmp_path / "results").exists()


def test_numbers_and_verdicts(train, results, tmp_path):
    """Errors of 1, 2 and 3 percent have mean 2 and standard error 1/sqrt(3); two seeds of three are marked."""
    results("fast_weights-20", 1.0, 2.0, 3.0)
    results("fast_weights-50", 0.004, 0.0, 0.005)
    results("fast_weights-100", 0.1, 0.2)
    for label, error in [("irnn", 60.0), ("lstm", 1.99), ("associative_lstm", 50.0)]:
        results(f"{label}-20", error, error, error)
    text = report(train, tmp_path)["retrieval"]
    assert "17 of 48 runs are there, at commit abc1234, torch 2.99" in text
    assert row(text, "fast weights") == [
        *("not run", "2.00 ± 0.58", "1.81", "0.00 ± 0.00", "0", "0.15 ± 0.05 (2 of 3 seeds)", "0"),
    ]
    claims = {
        claim: row(text, claim)[1]
        for claim in re.findall(r"^\| ((?:fast weights, R|R =)[^|]*?) \|", text, re.MULTILINE)
    }
    assert claims["fast weights, R = 20: at most the paper's 1.81 %"] == "no"
    assert claims["fast weights, R = 20: at most 0.5 %"] == "no"
    assert claims["fast weights, R = 50: at most the paper's 0 %"] == "yes", "to two decimals, as the paper prints"
    assert claims["fast weights, R = 100: at most the paper's 0 %"] == "not run"
    others = "fast weights no worse than IRNN, LSTM, associative LSTM"
    assert claims[f"R = 20: {others}"] == "no", "the LSTM has 1.99"
    assert claims[f"R = 50: {others}"] == "not run"
    assert row(text, "fast_weights-20") == ["0.002", "cosine", "0.85", "0.75", "", "77,000", "3,000", "2.1", "12,345"]
    assert row(text, "lstm-20")[2:4] == ["", ""]


def test_updates_to_the_level(train, results, tmp_path):
    results("fast_weights-50", 0.0, 0.0, 0.0)
    results("lstm-50", 60.0, 60.0, nll=(2.0, 1.5, 0.101))
    text = report(train, tmp_path)["retrieval"]
    after = text[text.index("first seen below 0.1") :]
    assert row(after, "fast weights") == ["2,000, 2,000, 2,000", "50,000"]
    assert row(after, "LSTM") == ["not in 100,000, not in 100,000", "630,000"]
    assert row(after, "IRNN") == ["not run", "never"]


def test_the_other_tables(train, results, tmp_path):
    results("fast_weights-50", 0.0, 0.0, 0.0)
    results("fast_weights-50-k26", 12.0, 12.5, 13.0)
    results("associative_lstm-50-k8", 30.0)
    for label, error in [("multilevel", 1.5), ("lstm", 1.4), ("convnet", 1.6), ("fast_weights", 1.3)]:
        results(f"mnist-{label}-50", error, error, error)
    sections = report(train, tmp_path)
    harder = sections["harder"]
    assert row(harder, "fast weights") == ["0.00 ± 0.00", "not run", "not run", "12.50 ± 0.29"]
    assert row(harder, "associative LSTM") == ["not run", "30.00 (1 of 3 seeds)", "not run", "not run"]
    text = sections["glimpses"]
    assert row(text, "fast weights, multi-level")[:2] == ["1.50 ± 0.00", "7.21"]
    assert row(text, "fast weights")[:2] == ["1.30 ± 0.00", ""]
    for claim, verdict in [
        ("fast weights, multi-level, 50 features: at most the paper's 7.21 %", "yes"),
        ("fast weights, multi-level, 50 features: no worse than the LSTM", "no"),
        ("fast weights, 50 features: no worse than the LSTM", "yes"),
        ("fast weights, multi-level, 50 features: no worse than the ConvNet", "yes"),
        ("fast weights, 100 features: no worse than the LSTM", "not run"),
    ]:
        assert row(text, claim)[1] == verdict, claim


def test_language(train, results, tmp_path):
    """Bits of 2, 2.5 and 3 have mean 2.5 and standard error 1/sqrt(12)."""
    results("language-fast_weights-250k", 2.0, 2.5, 3.0)
    results("language-lstm-250k", 2.6, 2.6, 2.6)
    results("language-gru-250k", 2.25)
    text = report(train, tmp_path)["language"]
    assert "7 of 9 runs are there" in text
    assert row(text, "fast weights") == ["12,345", "436", "2.50 ± 0.29", "1.70", "55.00"]
    assert row(text, "GRU")[2] == "2.25 (1 of 3 seeds)"
    assert row(text, "fast weights no worse than the LSTM") == ["2.50 ± 0.29 against 2.60 ± 0.00", "yes"]
    assert row(text, "fast weights no worse than the GRU")[1] == "not run"
    assert row(text, "language-lstm-250k")[0] == "0.002"


def test_searches(train, tmp_path):
    """A winner's area comes from the long runs, if there were any."""
    (tmp_path / "results" / "tuning").mkdir(parents=True)
    trials = [
        {"number": n, "value": v, "setting": {"learning_rate": 0.00123456, "num_envs": n}}
        for n, v in enumerate((0.1, 0.3))
    ]
    search = {"env": "Game-v0", "core": "lstm", "trials": trials, "steps": 50_000, "seeds": [100, 101]}
    final = {"final_steps": 200_000, "finalists": [trials[1], {**trials[0], "value": 0.7}]}
    for core, more, winner in [("lstm", {}, trials[1]), ("gru", final, final["finalists"][1])]:
        path = tmp_path / "results" / "tuning" / f"{core}.json"
        path.write_text(json.dumps({**search, "core": core, **more, "winner": winner}))
    text = report(train, tmp_path, "tuning")["tuning"]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| Game")]
    assert lines == [
        *[["Game-v0", "gru", "2 of 50,000", "2 of 200,000", "100, 101", "0.7", "1: learning_rate 0.00123, num_envs 0"]],
        *[["Game-v0", "lstm", "2 of 50,000", "", "100, 101", "0.3", "2: learning_rate 0.00123, num_envs 1"]],
    ]


def test_figures(train, results, tmp_path):
    """Figures show the existing results, are labelled and linked from the document, and have reproducible bytes."""
    results("fast_weights-50", 0.0, 0.0, 0.0)
    results("lstm-20", 60.0, 61.0, 62.0)
    results("mnist-multilevel-100", 1.0)
    sections = report(train, tmp_path)
    folder = tmp_path / "figures"
    names = {"retrieval", "figure-2", "harder", "glimpses"}
    forms = [f"{theme}.{kind}" for theme in ("", "-dark") for kind in ("png", "svg")]
    assert {path.name for path in folder.iterdir()} == {name + form for name in names for form in forms}
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, label in [("retrieval", "hidden units R"), ("figure-2", "updates, thousands"), ("glimpses", "features")]:
        svg = first[f"{name}.svg"].decode()
        assert label in svg
        assert ("test NLL, nats" if name == "figure-2" else "test error, %") in svg
        for theme, ground in (("", "#ffffff"), ("-dark", "#0d1117")):
            with Image.open(folder / f"{name}{theme}.png") as png:
                assert min(png.size) > 400
                assert png.convert("RGB").getpixel((2, 2)) == ImageColor.getrgb(ground)
    assert "the paper's" in first["retrieval.svg"].decode()
    text = "".join(sections.values())
    links = re.findall(r'src(?:set)?="([^"]+)"', text)
    assert len(links) == 2 * len(names)
    for link in links:
        assert (tmp_path / link).exists()
    report(train, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_every_series_has_a_look_of_its_own(train):
    from experiments.figures import STYLES

    for place in range(3):
        looks = [style[place] for style in STYLES.values()]
        assert len(set(looks)) == len(looks)
    models = {cell.label for cell in train.CELLS if cell.group != "inner-steps"}
    assert models <= set(STYLES)


@pytest.fixture
def curves(tmp_path, train):
    """Return a function that writes agents' runs, given a cell's name and a curve per seed that ends in the result."""
    from experiments import curves, elsewhere, inner_steps, suite

    cells = {cell.name: cell for each in (curves, suite, elsewhere, inner_steps) for cell in each.CELLS}

    def write(name, *runs, stopped=(), **other):
        cell = cells[name]
        for seed, returns in zip(cell.seeds, runs, strict=False):
            path = cell.path(tmp_path / "results", seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            run = {"steps": [1000, 2000], "mean_return": returns, "seed": seed}
            run |= {"final": {"mean_return": returns[-1], "inner_steps_taken": 2.5, "success_rate": 0.625}}
            run |= {"commit": "ab", "machine": "a machine", "config": {**cell.options, "seed": seed, **other}}
            path.write_text(json.dumps({**run, **dict(stopped)}))

    return write


def test_learning_curves(train, curves, tmp_path):
    """Fast weights have areas of 0.5 and 0.7, the LSTM 0.1 and 0.6: fast weights win three of four pairs.

    Means of two resampled seeds are 0.5, 0.6 or 0.7; one sample in forty suffices for an end to be in the interval.
    """
    name = "PartialCatch-v0-{}-memory_ppo"
    curves(name.format("fast_weights"), [0.0, 1.0], [0.5, 0.9])
    curves(name.format("lstm"), [0.0, 0.2], [0.4, 0.8])
    text = report(train, tmp_path, "curves")["curves"]
    assert "4 of 75 runs are there, at ab, on a machine, one thread each. 1,500,000 steps each." in text
    assert row(text, "fast weights") == ["0.60 (0.50 to 0.70)", "2k, 2k", "0.95 (0.90 to 1.00)", ""]
    area, reached, final, larger = row(text, "LSTM")
    assert (area, reached, final) == ("0.35 (0.10 to 0.60)", "never, never", "0.50 (0.20 to 0.80)")
    assert larger.startswith("0.75 (")
    assert "PartialCatch-v0, MemoryA2C: not run" in text
    for path in (tmp_path / "figures").glob("curves-*.svg"):
        assert "environment steps, millions" in path.read_text()
    assert re.findall(r'src="([^"]+)"', text) == ["figures/curves-PartialCatch-v0-memory_ppo.svg"]


@pytest.mark.usefixtures("train")
def test_the_share_of_pairs_won_is_rliables():
    from rliable.metrics import probability_of_improvement

    from experiments.curves import larger

    rng = np.random.default_rng(0)
    for n, m in [(1, 1), (5, 5), (3, 7)]:
        x, y = rng.integers(0, 4, (n, 1)) / 4, rng.integers(0, 4, (m, 1)) / 4  # with ties
        assert larger(x, y) == pytest.approx(probability_of_improvement(x, y), abs=1e-12)


def test_a_report_says_the_same_every_time(train, curves, tmp_path):
    """Intervals, and figures made from them, are the same although the bootstrap is random."""
    values = [[0.0, 0.1 * n * n] for n in range(5)]
    curves("PartialCatch-v0-fast_weights-memory_ppo", *values)
    curves("PartialCatch-v0-gru-memory_ppo", *reversed(values))
    first = report(train, tmp_path, "curves")
    path = tmp_path / "figures" / "curves-PartialCatch-v0-memory_ppo.svg"
    drawn = path.read_bytes()
    assert report(train, tmp_path, "curves") == first
    assert path.read_bytes() == drawn


def test_runs_with_other_options_are_not_reported(train, curves, tmp_path):
    """Such runs exist when a budget has changed: `make results` runs them again."""
    curves("PartialCatchLarge-v0-gru-memory_ppo", [0.0, 0.5], total_timesteps=2_000_000)
    assert "PartialCatchLarge-v0, MemoryPPO: not run" in report(train, tmp_path, "curves")["curves"]
    curves("CartPoleNoVel-v1-gru", [0.0, 0.5], hidden_size=64)
    assert "None of 108 runs is there." in report(train, tmp_path, "elsewhere")["elsewhere"]


def test_a_broken_run_of_an_agent_is_one_clear_line(train, curves, tmp_path, capsys):
    curves("PartialCatch-v0-gru-memory_ppo", [0.0, 0.5])
    (path,) = (tmp_path / "results" / "curves").iterdir()
    path.write_text("{")
    with pytest.raises(SystemExit):
        report(train, tmp_path, "curves")
    assert f"{path} is not JSON" in capsys.readouterr().err


def test_the_memory_suite(train, curves, tmp_path):
    """A right answer is worth 1, a wrong one -1; in the maze every step costs, so turns are counted there."""
    curves("MemoryChain-v0-20-lstm", [0.5], [0.75], learning_rate=0.001, stopped={"stopped": "loss is nan"})
    curves("KeyValueRecall-v0-2-fast_weights", [0.1], learning_rate=0.003)
    curves("TMaze-v0-5-gru", [1.0], learning_rate=0.001)
    text = report(train, tmp_path, "suite")["suite"]
    chain = text[text.index("MemoryChain-v0") :]
    assert row(chain, "LSTM") == ["0.001", "", "", "0.75, 0.88", "", ""]
    recall = text[text.index("KeyValueRecall-v0") :]
    assert row(recall, "fast weights") == ["0.003", "", "0.55", "", ""]
    maze = text[text.index("TMaze-v0") :]
    assert row(maze, "GRU") == ["0.001", "0.62", "", "", "", ""]
    assert "RepeatPrevious-v0: not run" in text
    levels = {"MemoryChain": 0.5, "KeyValueRecall": 0.1, "TMaze": 0.5}  # share of right guesses: bits, digits, turns
    assert all(f"{env}-v0, right answers of each seed ({level:g} by guessing)" in text for env, level in levels.items())
    assert "4 of 456 runs are there, at ab, on a machine" in text
    assert "that was not finite, and as they then played: MemoryChain-v0-20-lstm (2)." in text
    svg = (tmp_path / "figures" / "suite.svg").read_text()
    assert "right answers" in svg
    assert 'src="figures/suite.svg"' in text


def test_elsewhere(train, curves, tmp_path):
    """Two seeds end at 200 and 400: one bootstrap sample in four is the first seed twice."""
    curves("CartPoleNoVel-v1-lstm", [100.0, 200.0], [100.0, 400.0])
    curves("CartPoleNoVel-v1-gru", [100.0, 300.0])
    text = report(train, tmp_path, "elsewhere")["elsewhere"]
    lines = [line for line in text.splitlines() if line.startswith("| CartPole-v1 without velocity")]
    (cells,) = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert cells[1:] == ["50,000", "", "", "300.00 (200.00 to 400.00)", "300.00 (one seed)", "", ""]
    assert "Not run: Pendulum-v1 without velocity, MiniGrid-MemoryS7-v0" in text


def test_inner_steps(train, results, curves, tmp_path):
    """The row of one read comes from the learning curves' first three seeds."""
    results("fast_weights-20-steps-2-per-step", 1.0, 2.0)
    results("fast_weights-20-steps-8-per-step", 1.0, memory={"fast_lr": 0.5, "normalize_storage": True})
    results("fast_weights-20-steps-0", 60.0)
    results("fast_weights-50-steps-adaptive", 0.25)
    curves("PartialCatch-v0-no_reads-memory_ppo", [0.0, 0.5])
    curves("PartialCatch-v0-steps-8-per-step", [0.0, 0.8])
    curves("PartialCatchLarge-v0-steps-adaptive", [0.0, 0.8], [0.0, 0.4])
    curves("PartialCatchLarge-v0-fast_weights-memory_ppo", *([0.0, 0.2 * n] for n in range(5)))
    text = report(train, tmp_path, "inner-steps")["inner-steps"]
    retrieval, agents, rates = re.split("area under the learning curve:|fast rate on retrieval", text)
    assert row(retrieval, "2") == ["not run", "1.00, 2.00", "not run", "not run"]
    assert row(retrieval, "adaptive") == ["not run", "", "0.25", ""]
    assert row(agents, "0") == ["0.25", "", "not run", ""]
    assert row(agents, "1") == ["not run", "", "0.00, 0.10, 0.20", ""]
    assert row(agents, "8") == ["not run", "0.40", "not run", "not run"]
    assert row(rates, "2") == ["not run", "0.75", "not run", "not run"]
    assert row(rates, "8") == ["not run", "0.5, h normalised", "not run", "not run"]
    assert row(rates, "0") == ["nothing stored", "", "not run", ""]
    assert "each seed: R = 50 1.25; PartialCatchLarge-v0 2.50, 2.50." in text
    svg = (tmp_path / "figures" / "inner-steps.svg").read_text()
    assert "inner steps S" in svg
    assert "test error on retrieval, %" in svg
    assert 'src="figures/inner-steps.svg"' in retrieval


def test_a_broken_result_is_one_clear_line(train, results, tmp_path, capsys):
    results("lstm-20", 60.0)
    (path,) = (tmp_path / "results" / "retrieval").iterdir()
    path.write_text("{")
    assert str(path) in refused(capsys, report, train, tmp_path)
