"""The one exception that is meant for a person."""


class InputError(Exception):
    """Something the user can mend. Its text names the file or value, the rule, and what to do; no traceback is shown."""
