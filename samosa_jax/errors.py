"""The one error that speaks to the user: what is wrong, where, and the mend, in a single line."""


class UserError(Exception):
    """Bad configuration, data, checkpoint or request.

    Commands print `str(error)` as one line on stderr and exit with code 2; a traceback is kept for
    bugs of ours. The message names the file, key or row, what was found, what was expected, and
    what to do about it.
    """


class ConfigError(UserError, ValueError):
    """A configuration value that cannot work, found when the configuration is loaded."""
