"""The experiments behind docs/results.md, a file each: its cells, its section and its figure.

``python -m experiments`` runs and writes them. An experiment has ``CELLS`` and ``section(results, figures)``, and
``PAGE`` if its section stands on a page of its own.
"""

# In the order in which their cells run.
EXPERIMENTS = (
    "retrieval",
    "harder",
    "glimpses",
    "language",
    "tuning",
    "curves",
    "suite",
    "rotary",
    "heads",
    "elsewhere",
    "inner_steps",
    "learning",
)
