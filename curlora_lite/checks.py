"""Checks of arguments that many files make; errors name the argument, what came, what is known."""

import math
import numbers
import sys
from collections.abc import Iterable, Mapping


def known(name, value, choices):
    """ValueError, naming the choices, unless `value` is one of them."""
    if value not in tuple(choices):  # a tuple is asked by equality: what came may not be hashable
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(str, choices))}")


def whole(name, value, least=None):
    """`value` as an int (numpy's too); ValueError unless a whole number, of `least` or more."""
    number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not number or (least is not None and value < least):
        bound = "" if least is None else f" of {least} or more"
        raise ValueError(f"{name}: got {value!r}, expected a whole number{bound}")
    return int(value)


def finite(name, value):
    """`value` as an int or a float (numpy's too); ValueError unless it is a finite number."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    kind = int if real and isinstance(value, numbers.Integral) else float
    plain = kind(value) if real else math.nan
    if abs(plain) > sys.float_info.max or math.isnan(plain):
        raise ValueError(f"{name}: got {value!r}, expected a finite number")
    return plain


def names(name, value):
    """`value`, a list or the like of names, as a tuple; ValueError unless it is one."""
    several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    found = tuple(value) if several else ()
    if not several or not all(isinstance(one, str) and one for one in found):
        what = "the string " if isinstance(value, str) else ""
        raise ValueError(f"{name}: got {what}{value!r}, expected a list of names")
    return tuple(map(str, found))  # numpy's too
