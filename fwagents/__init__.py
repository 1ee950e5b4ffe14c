"""Fast-weight memory for reinforcement-learning agents."""

__version__ = "0.1.0"
