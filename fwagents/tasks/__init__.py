"""Supervised tasks for memory cores: key-value retrieval, images by glimpses, language, and one training loop."""
