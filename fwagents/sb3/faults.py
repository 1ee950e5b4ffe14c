"""The error of an environment that fails."""


class EnvironmentFault(RuntimeError):
    """An environment raised an error, or returned something that its spaces do not allow.

    The environment's own error, where there is one, is the ``__cause__``.

    Args:
        message: the whole line for the user.
        env: number of the environment in its batch; None if it is not known.
        step: number of the step, counted from 1; 0 is the first reset, None is not known.
    """

    def __init__(self, message: str, env: int | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.env, self.step = env, step
