"""Supervised tasks for memory cores: key-value retrieval, images by glimpses, and one training loop for both."""
