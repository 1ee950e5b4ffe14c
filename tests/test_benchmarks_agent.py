"""benchmarks/agent.py runs and says what a reader needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROTARY = ("MemoryPPO rotary_fast_weights", "RecurrentPPO lstm")


def test_a_quick_run_has_every_figure(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "agent.py"), "--quick", "--cases", "catch", "cart-pole"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    results = json.loads(done.stdout)
    assert {"cpu", "cores", "torch", "commit", "command", "date", "versions"} <= results["machine"].keys()
    assert results["settings"]["n_epochs"] == 4
    cells = results["cells"]
    # CartPole has no batch of its own, so the stock agents do not run in one.
    assert len({(c["env"], c["agent"], c["critic"], c["vec_env"]) for c in cells}) == len(cells) == 14 + 11
    for cell in cells:
        assert cell["steps_per_second"] >= cell["slowest"] > 0
        total = cell["rollout_seconds"] + cell["update_seconds"]
        # A single turn: the parts add up to the whole.
        assert abs(total * cell["steps_per_second"] / (16 * 4) - 1) < 1e-6
        share = cell["flops_per_step"] * cell["steps_per_second"] / cell["gemm_flops"]
        assert cell["share_of_peak"] == pytest.approx(share)
        assert 0 < cell["update_share_of_peak"] * cell["update_seconds"] < share * total
    cores = ("rotary_fast_weights", "fast_weights", "gru", "lstm")
    pairs = {(r["ours"], r["theirs"]) for r in results["ratios"]}
    assert pairs == {(f"MemoryPPO {core}", stock) for core in cores for stock in ("RecurrentPPO lstm", "PPO")}
    assert len(results["ratios"]) == 2 * len(pairs) * (2 + 1)
    # All episodes of Catch have one length, those of a random player of CartPole do not.
    wanted = {(r["env"], r["target"]) for r in results["ratios"] if (r["ours"], r["theirs"]) == ROTARY}
    assert wanted == {("PartialCatch-v0", 5.0), ("CartPoleNoVel-v1", 10.0)}
    assert "| MemoryPPO rotary_fast_weights / RecurrentPPO lstm, shared, DummyVecEnv |" in done.stderr
    # The PPO's weights by hand: twice 256 -> 8 -> 8, and the heads; forward in the rollout, and in 4 epochs both ways.
    seen, unseen = 2 * 256 * 8, 2 * 8 * 8 + 8 * 3 + 8
    (flops,) = {c["flops_per_step"] for c in cells if c["agent"] == "PPO" and c["env"] == "PartialCatch-v0"}
    assert flops == 2 * (seen + unseen) + 4 * (2 * seen * 2 + 2 * unseen * 3)
    assert not list(tmp_path.iterdir()), "nothing is written"
