"""RL Zoo's settings for ``--algo ppo_lstm``: ``--conf-file fwagents.zoo.ppo_lstm``."""

from fwagents.zoo.hyperparams import hyperparams_for

hyperparams = hyperparams_for("ppo_lstm")
