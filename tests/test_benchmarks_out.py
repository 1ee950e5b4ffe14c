"""A benchmark replaces only its own results, and the documentation shows only committed results."""

import json
from pathlib import Path

import pytest

from .scripts import refusal, run

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
OTHER = {
    "agent": ["--num-envs", "4", "--repeats", "1"],
    "memory_log": ["--total-timesteps", "4000", "--pairs", "1"],
    "imports": ["--rounds", "1"],
    "programmers": ["--seconds", "0.01"],
    "scan": ["--seconds", "0.01"],
    "rllib": ["--iterations", "3"],
}


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_every_benchmark_is_here():
    writing = {path.stem for path in BENCHMARKS.glob("*.py") if "    output: Path" in path.read_text()}
    assert writing == set(OTHER)


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

    shown = []
    publish(ROOT / "results" / "imports.json", shown.append)
    assert shown == [json.loads((ROOT / "results" / "imports.json").read_text())]
    publish(tmp_path / "imports.json", shown.append)
    assert len(shown) == 1
    assert "imports.json. The documentation shows those in" in capsys.readouterr().out
