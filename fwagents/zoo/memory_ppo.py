"""RL Zoo's settings for ``--algo memory_ppo``: ``--conf-file fwagents.zoo.memory_ppo``."""

from fwagents.zoo.hyperparams import hyperparams_for

hyperparams = hyperparams_for("memory_ppo")
