"""A benchmark replaces only its own results, and the documentation shows only committed results."""

import dataclasses
import importlib
import json
import time
from pathlib import Path

import pytest

from .scripts import refusal, run

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
OTHER = {
    "agent": ["--num-envs", "4", "--repeats", "1"],
    "memory_log": ["--total-timesteps", "4000", "--pairs", "1"],
    "imports": ["--rounds", "1"],
    "scan": ["--seconds", "0.01"],
    "rllib": ["--iterations", "3"],
}


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_every_benchmark_is_here():
    writing = {path.stem for path in BENCHMARKS.glob("*.py") if "conduct(args" in path.read_text()}
    assert writing == set(OTHER)


@pytest.mark.parametrize(
    ("name", "results"),
    [
        *(("scan", "scan-cpu"), ("scan_gpu", "scan-cuda"), ("agent", "agent-speed")),
        *(("memory_log", "memory-log"), ("imports", "imports")),
    ],
)
def test_the_document_says_what_was_measured(name, results):
    bench = importlib.import_module(name)
    measured = json.loads((ROOT / "results" / f"{results}.json").read_text())
    family = [bench.FAMILIES["fast_weights"]] if name == "scan" else []
    document = (ROOT / "docs" / "performance.md").read_text()
    ((section, text),) = bench.sections(*family, measured).items()
    assert f"<!-- {section}: written by a command, do not edit -->\n{text}\n<!-- end of {section} -->" in document


def test_a_given_size_wins_over_that_of_a_quick_run(monkeypatch):
    from imports import Args
    from measuring import options

    quick = dataclasses.replace(Args(), quick=True, rounds=1)
    for words, rounds in (([], 10), (["--quick"], 1), (["--quick", "--rounds", "7"], 7)):
        monkeypatch.setattr("sys.argv", ["imports.py", *words])
        assert options(Args, rounds=1) == dataclasses.replace(quick, quick=bool(words), rounds=rounds)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--rounds", "0"], "--rounds is 0, expected at least 1"),
        (["--quick", "--report"], "--report does nothing with --quick, expected --no-quick"),
    ],
)
def test_wrong_options_are_refused(words, error, monkeypatch, capsys):
    from imports import Args
    from measuring import options

    monkeypatch.setattr("sys.argv", ["imports.py", *words])
    with pytest.raises(SystemExit) as left:
        options(Args, rounds=1)
    assert left.value.code == 2
    assert error in capsys.readouterr().err


def test_sides_take_turns_and_the_first_round_does_not_count():
    from measuring import in_turns, paired_medians, timed

    calls = []
    in_turns([lambda: calls.append("a"), lambda: calls.append("b")], 0.0, least=2, most=9, warm=1)
    assert calls == ["a", "b"] * 3
    seconds = []
    assert timed(lambda x: 2 * x, seconds, clock=iter([0.0, 3.0]).__next__)(4) == 8
    assert seconds == [3.0]
    slow = iter([0.05, 0.0, 0.0, 0.0])
    (median,) = paired_medians([lambda: time.sleep(next(slow))], least=3, most=3)
    assert median < 0.05


def test_operations_are_counted_as_when_the_results_were_made():
    from flops import scan_flops
    from fwagents.cores import FastWeights, RotaryFastWeights

    measured = json.loads((ROOT / "results" / "scan-cpu.json").read_text())
    for part, steps in (("grid", 1), ("inner_steps_3", 3)):
        for cell in measured[part]:
            core = FastWeights(100, cell["R"], inner_steps=steps)
            assert scan_flops(core, cell["T"], cell["B"]) == pytest.approx(cell["flops"])
    # By hand, with D = 3 and two heads of d = 4: 24 + 4 + 8 + 8 rows read x, forward and to their gradient; M and the
    # four taps also pass a gradient on. Three products of d^2 a head forward, six backward.
    core = RotaryFastWeights(3, 8, num_heads=2)
    assert scan_flops(core, 5, 7) == 35 * 2 * (2 * 44 * 3 + 3 * (64 + 4 * 24) + 9 * 2 * 16)


@pytest.mark.parametrize("name", OTHER)
def test_other_sizes_do_not_replace_what_is_there(name, tmp_path):
    out = tmp_path / "kept.json"
    out.write_text(json.dumps({"machine": {"command": f"python benchmarks/{name}.py"}}))
    before = out.read_bytes()
    done = run(BENCHMARKS / f"{name}.py", *OTHER[name], "--output", out, cwd=tmp_path)
    assert f"kept.json holds the results of python benchmarks/{name}.py" in refusal(done)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "argv", "allowed"),
    [
        (None, ["benchmarks/x.py"], True),
        ("python benchmarks/x.py --rounds 4", ["/elsewhere/x.py", "--rounds", "4"], True),
        ("python benchmarks/x.py --rounds 4", ["x.py", "--output", "here.json", "--rounds", "4"], True),
        ("python benchmarks/x.py --output=there.json", ["x.py"], True),
        ("python benchmarks/x.py --rounds 4", ["x.py"], False),
        ("python benchmarks/x.py", ["y.py"], False),
        ("", ["x.py"], False),
    ],
)
def test_the_same_command_replaces_its_results(content, argv, allowed, tmp_path, monkeypatch):
    from measuring import check_output

    out = tmp_path / "results.json"
    if content is not None:
        out.write_text(json.dumps({"machine": {"command": content}}))
    monkeypatch.setattr("sys.argv", argv)
    if allowed:
        check_output(out)
        return
    with pytest.raises(SystemExit) as left:
        check_output(out)
    assert left.value.code == 2


@pytest.mark.parametrize("content", ["[]", "{}", "no JSON", b"\xff"])
def test_a_file_of_another_kind_is_not_replaced(content, tmp_path, monkeypatch):
    from measuring import check_output

    out = tmp_path / "results.json"
    out.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr("sys.argv", ["x.py"])
    with pytest.raises(SystemExit):
        check_output(out)


def test_the_documentation_shows_the_committed_results(tmp_path, capsys):
    from measuring import publish

    document, marks = tmp_path / "document.md", ("<!-- a: written by a command, do not edit -->", "<!-- end of a -->")
    document.write_text("\n".join(marks))

    def sections(results):
        return {"a": json.dumps(results)}

    publish(ROOT / "results" / "imports.json", sections, document)
    shown = document.read_text()
    assert json.loads(shown.removeprefix(marks[0]).removesuffix(marks[1])) == json.loads(
        (ROOT / "results" / "imports.json").read_text()
    )
    publish(tmp_path / "imports.json", sections, document)
    assert document.read_text() == shown
    assert "imports.json. The documentation shows those in" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        publish(ROOT / "results" / "absent.json", sections, document)
    assert left.value.code == 2
    assert "absent.json does not exist, expected results" in capsys.readouterr().err
