"""RL Zoo (``pip install "fwagents[zoo]"``): our settings for its trainer, and a launcher that adds our algorithms.

RL Zoo's own trainer supports our policy: ``python -m rl_zoo3.train --algo ppo_lstm --env PartialCatch-v0 --gym-packages
fwagents.envs --conf-file fwagents.zoo.ppo_lstm``. ``python -m fwagents.zoo train --algo memory_ppo --env
PartialCatch-v0`` trains with MemoryPPO, or ``memory_a2c`` with MemoryA2C; ``enjoy``, ``record_video`` and
``plot_train`` work as in RL Zoo.
"""
