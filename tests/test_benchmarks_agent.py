"""benchmarks/agent.py runs, and its results have all facts that a reader needs."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_quick_run_has_every_figure(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "agent.py"), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    results = json.loads(done.stdout)
    assert {"cpu", "cores", "torch", "commit", "command", "date", "versions"} <= results["machine"].keys()
    assert results["settings"]["n_epochs"] == 4
    cells = results["cells"]
    assert len({(c["agent"], c["critic"], c["vec_env"]) for c in cells}) == len(cells) == 10
    for cell in cells:
        assert cell["steps_per_second"] >= cell["slowest"] > 0
        total = cell["rollout_seconds"] + cell["update_seconds"]
        # With a single turn, the parts add up to the whole.
        assert abs(total * cell["steps_per_second"] / (16 * 4) - 1) < 1e-6
        assert cell["share_of_peak"] == cell["flops_per_step"] * cell["steps_per_second"] / cell["gemm_flops"]
    pairs = {(r["ours"], r["theirs"]) for r in results["ratios"]}
    assert pairs == {
        ("MemoryPPO fast_weights", "RecurrentPPO lstm"),
        ("MemoryPPO lstm", "RecurrentPPO lstm"),
        ("MemoryPPO fast_weights", "PPO"),
    }
    assert len(results["ratios"]) == 2 * len(pairs) * 2
    # PPO's weights by hand: twice 256 -> 8 -> 8, and the heads; forward in the rollout, both ways in each of 4 epochs.
    seen, unseen = 2 * 256 * 8, 2 * 8 * 8 + 8 * 3 + 8
    (flops,) = {c["flops_per_step"] for c in cells if c["agent"] == "PPO"}
    assert flops == 2 * (seen + unseen) + 4 * (2 * seen * 2 + 2 * unseen * 3)
    assert not list(tmp_path.iterdir()), "nothing is written"
