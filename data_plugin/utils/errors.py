"""The one exception that tells a user what to change."""


class UserError(Exception):
    """Input that the user can put right: one sentence that names the value, what was expected and the fix.

    Tools print the message alone and leave with exit code 2.
    """
