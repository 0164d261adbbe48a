"""Checks of arguments that many files make; errors name the argument, what came, what is known."""

import math
import sys


def known(name, value, choices):
    """ValueError, naming the choices, unless `value` is one of them."""
    if value not in tuple(choices):  # a tuple is asked by equality: what came may not be hashable
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(str, choices))}")


def whole(name, value, least):
    """ValueError unless `value` is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of {least} or more")


def finite(name, value):
    """ValueError unless `value` is a finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or abs(value) > sys.float_info.max or math.isnan(value):
        raise ValueError(f"{name}: got {value!r}, expected a finite number")
