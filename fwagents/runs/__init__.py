"""Training runs as a library: options, environments, algorithms, the run itself, and the search for settings."""
