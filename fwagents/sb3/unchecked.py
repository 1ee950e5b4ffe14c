"""Action distributions without torch's checks of their arguments, for arguments that are already checked."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution


@contextmanager
def unchecked() -> Iterator[None]:
    """Switch off the argument checks of ``torch.distributions``, as a context manager or a decorator.

    The checks read every number again at every step. They cannot fail for a policy with finite weights and
    observations, which the algorithms ensure.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
