"""Measurements of speed: one script per question, run as `python benchmarks/<name>.py`."""
