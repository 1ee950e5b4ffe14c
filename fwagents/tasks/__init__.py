"""Supervised tasks for memory cores: key-value retrieval, images by glimpses and language, with one training loop."""
