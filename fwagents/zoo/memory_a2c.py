"""RL Zoo's settings for ``--algo memory_a2c``: ``--conf-file fwagents.zoo.memory_a2c``."""

from fwagents.zoo.hyperparams import hyperparams_for

hyperparams = hyperparams_for("memory_a2c")
