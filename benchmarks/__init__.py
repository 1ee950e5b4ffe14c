"""Measurements of speed: one script a question, run as `python benchmarks/<name>.py`."""
