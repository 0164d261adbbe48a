"""Checks of arguments that many files make; errors name the argument, what came, what is known."""


def known(name, value, choices):
    """ValueError, naming the choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(str, choices))}")


def whole(name, value, least):
    """ValueError unless `value` is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of {least} or more")
