"""The agents of ``fwagents.sb3`` on Ray RLlib, for several machines: ``pip install "fwagents[ray]"``.

``with_memory(PPOConfig(), core="fast_weights")`` returns a configuration whose env runners and learners have a memory.
"""

try:
    import ray.rllib  # noqa: F401
except ImportError as error:
    raise ImportError('RLlib is not installed: pip install "fwagents[ray]"') from error

from fwagents.rllib.config import with_memory
from fwagents.rllib.episodes import EpisodeLog
from fwagents.rllib.module import MemoryRLModule, from_sb3, to_sb3
from fwagents.rllib.states import KeepOpenings, OpeningStates

__all__ = ["EpisodeLog", "KeepOpenings", "MemoryRLModule", "OpeningStates", "from_sb3", "to_sb3", "with_memory"]
