"""The experiments behind docs/results.md: their cells, what runs those that are missing, and the report."""
