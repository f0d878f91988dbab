"""What a user did, as opposed to what broke: refused before work starts, with the value and the remedy."""


class InputError(ValueError):
    """Input that cannot work. The message states what was wrong, the value, and what to do."""
