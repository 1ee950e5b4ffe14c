"""benchmarks/rllib.py: the fit finds known costs, and the prediction equals one by hand."""

import json
from pathlib import Path

import pytest

pytest.importorskip("scipy")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent.parent / "benchmarks"))
    import rllib

    return rllib


def test_known_costs_are_found_and_carried_on(bench):
    # On two cores, four runners play in two turns. Seconds: play 0.4, gather 0.02, learn 0.05, fixed 0.1.
    rows = [
        {"runners": 1, "learn": 0.15, "all": 0.15 + 0.4 + 0.02},
        {"runners": 2, "learn": 0.20, "all": 0.20 + 0.4 + 0.04},
        {"runners": 4, "learn": 0.30, "all": 0.30 + 0.8 + 0.08},
    ]
    model = bench.fit(rows, cores=2, network=0.001)
    assert model == pytest.approx((0.4, 0.02, 0.05, 0.1, 0.001))
    for row in rows:
        assert bench.fitted(model, row, 2)["model"] == pytest.approx(row["all"])
    # 64 runners with a core each take 0.4 + 64 (0.02 + 0.05 + 0.001) + 0.1 seconds for 64 times 480 steps.
    found = bench.predict(model, 480, 64)
    assert found["steps_per_second"] == pytest.approx(64 * 480 / 5.044)
    assert found["bottleneck"] == "learn"
    assert bench.predict(model, 480, 1)["bottleneck"] == "play"
    # The speed approaches 480 / 0.071 steps per second.
    assert bench.predict(model, 480, 10**6)["steps_per_second"] == pytest.approx(480 / 0.071, rel=1e-4)


def test_break_even_by_hand(bench):
    # 64 runners take 5.044 s for 30,720 steps, of which each plays 480; one process takes 0.768 s and plays all.
    model = bench.CostModel(0.4, 0.02, 0.05, 0.1, 0.001)
    slow = bench.break_even(model, 480, 64, 40_000)
    assert slow == pytest.approx((5.044 - 0.768) / (30_720 - 480))
    assert 5.044 + 480 * slow == pytest.approx(0.768 + 30_720 * slow)


def test_the_document_says_what_was_measured(bench):
    document = bench.DOCUMENT.read_text()
    for name, text in bench.sections(json.loads((bench.ROOT / "results" / "rllib.json").read_text())).items():
        assert f"<!-- {name}: written by a command, do not edit -->\n{text}\n<!-- end of {name} -->" in document
