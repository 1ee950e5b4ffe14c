"""Action distributions without torch's checks of their arguments, where those have been checked already."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution


@contextmanager
def unchecked() -> Iterator[None]:
    """Within it, or within a function it decorates, ``torch.distributions`` takes what it is given.

    Its checks read every number again at every step. A policy with finite weights and observations, which the
    algorithms see to, gives nothing that they could object to.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
