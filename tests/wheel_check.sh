#!/usr/bin/env bash
# Builds the source distribution and from it the wheel, has both checked, installs the wheel into a clean environment,
# and uses it from another directory: every registered id is made, single and batched, and an agent trains for 1,000
# steps.
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
model = RecurrentPPO("FastWeightPolicy", "PartialCatch-v0", n_steps=250).learn(1000)
assert model.num_timesteps == 1000, model.num_timesteps
print(f"the wheel of fwagents {fwagents.__version__} made {len(ENVIRONMENTS)} environments and trained 1,000 steps")
PY
