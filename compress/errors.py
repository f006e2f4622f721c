"""The one exception that means "your input, not our code"."""


class InputError(ValueError):
    """Input that cannot be used: the message is one sentence saying what, where and what to do."""
