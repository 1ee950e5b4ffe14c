#!/usr/bin/env bash
# Builds the source distribution and from it the wheel, has both checked, installs the wheel into a clean environment,
# and uses it from another directory: every registered id is made, single and batched, and an agent trains for 1,000
# steps, in Python and by the console script, which then plays it. Then, in another clean environment with the extra "zoo" alone, every command of docs/rl-zoo.md runs, cut short.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# Built from a copy, so that no build folder is left behind and none is read.
git -C "$root" ls-files -z --cached --others --exclude-standard | (cd "$root" && tar -c --null -T -) | (mkdir "$dir/src" && tar -x -C "$dir/src")
"${PYTHON:-python3}" -m venv "$dir/venv"
pip=("$dir/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install -c "$root/constraints.txt" build twine
"$dir/venv/bin/python" -m build --outdir "$dir" "$dir/src" > "$dir/build.log" || { cat "$dir/build.log"; exit 1; }
"$dir/venv/bin/python" -m twine check --strict "$dir"/fwagents-*
"${pip[@]}" install -c "$root/constraints.txt" "$dir"/fwagents-*.whl
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import gymnasium

import fwagents.sb3
from fwagents.envs import ENVIRONMENTS
from fwagents.tasks.retrieval import RetrievalTask
from sb3_contrib import RecurrentPPO

for name in ENVIRONMENTS:
    gymnasium.make(name).reset()
    gymnasium.make_vec(name, num_envs=2).reset()
    gymnasium.make(f"fwagents.envs:{name}").reset()
assert RetrievalTask().encode(["c9k8j3f1??c"]).labels.tolist() == [9]
model = RecurrentPPO("MemoryPolicy", "PartialCatch-v0", n_steps=250).learn(1000)
assert model.num_timesteps == 1000, model.num_timesteps
print(f"the wheel of fwagents {fwagents.__version__} made {len(ENVIRONMENTS)} environments and trained 1,000 steps")
PY

fwagents="$dir/venv/bin/fwagents"
"$fwagents" agent --env PartialCatch-v0 --total-timesteps 1000 --num-envs 4 --final-episodes 4 --eval-freq 500 --eval-episodes 4
"$fwagents" watch --no-window --episodes 1 --fps 1000 > watched.txt
"$fwagents" watch --episodes 1 --output play.html
"$fwagents" retrieval --updates 20 --train-strings 100 --validation-strings 10 --test-strings 10 --eval-freq 10
"$fwagents" > commands.txt
grep -q "fwagents agent" commands.txt
test -f runs/PartialCatch-v0/*/best_model.zip
test -f runs/retrieval/*/result.json
grep -q "</html>" play.html
echo "the console script of the wheel trained an agent and a memory for retrieval"

"${PYTHON:-python3}" -m venv "$dir/zoo"
wheel=$(echo "$dir"/fwagents-*.whl)
"$dir/zoo/bin/python" -m pip --quiet --disable-pip-version-check install -c "$root/constraints.txt" "$wheel[zoo]"
mkdir "$dir/page"
cd "$dir/page"
MPLBACKEND=Agg OMP_NUM_THREADS=1 SDL_VIDEODRIVER=dummy "$dir/zoo/bin/python" - "$root/docs/rl-zoo.md" <<'PY'
import shlex
import subprocess
import sys
from pathlib import Path

# What comes last on RL Zoo's command lines wins.
SHORT = {
    "train": "--n-timesteps 2000 --eval-freq 1000 --verbose 0",
    "enjoy": "-n 60",
    "record_video": "-n 20",
    "plot_train": "",
}
SEARCH = "--n-trials 2 --n-evaluations 1 --n-startup-trials 1"

lines = [line for line in Path(sys.argv[1]).read_text().splitlines() if line.startswith("python -m ")]
for line in lines:
    words = shlex.split(line)[1:]
    name = words[1].rpartition(".")[2] if words[1].startswith("rl_zoo3") else words[2]
    words += SHORT[name].split() + (SEARCH.split() if "--optimize-hyperparameters" in words else [])
    words += ["--trial-id", "1"] if "--trial-id" in words else []
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{line}\n{done.stdout}\n{done.stderr}")
assert len(list(Path("searches/memory_ppo").glob("report_*.csv"))) == 2
assert list(Path("logs").glob("*/*/videos/*.mp4"))
print(f"RL Zoo ran the {len(lines)} commands of its page")
PY
