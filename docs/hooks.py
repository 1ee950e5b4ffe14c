"""For the site: what stands outside docs/ is named there, but not linked."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page without its links to files of the repository."""
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
