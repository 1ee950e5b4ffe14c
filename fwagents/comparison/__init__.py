"""Runs side by side: learning curves, final returns, steps to a level, steps per second, with intervals over seeds.

``compare`` reads runs of ``fwagents agent`` and of Stable-Baselines3 and returns numbers.
"""

from fwagents.comparison.panels import Panel, Seed, Setting, compare

__all__ = ["Panel", "Seed", "Setting", "compare"]
