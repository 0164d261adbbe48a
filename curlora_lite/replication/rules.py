"""The rules of `results/smollm2/PLAN.md` as functions: what a difference is called, equal gain."""

import itertools
import math


def verdict(margin, p, first, *more):
    """What Intervals of one difference, over seeds and perhaps over rows too, say of it together.

    `differs`: all leave zero out, and p, adjusted where there are several comparisons, is below
    0.05; `differs little` if all of them also lie within the margin, -margin to margin. `no
    difference`: all lie within it. `not shown`: neither, and where a bound is NaN.
    """
    bounds = [(low, high) for _, low, high, *_ in (first, *more)]
    within = all(-margin < low and high < margin for low, high in bounds)
    if p < 0.05 and all(low > 0 or high < 0 for low, high in bounds):
        return "differs little" if within else "differs"
    return "no difference" if within else "not shown"


def cost_at(gain, gains, costs):
    """The least cost at which a gain is reached on straight lines from point to point.

    gains, costs: of the points, in the order in which they are joined. NaN for a gain that no line
    reaches: nothing is extrapolated.
    """
    found = []
    for (g, c), (h, d) in itertools.pairwise(zip(gains, costs, strict=True)):
        if min(g, h) <= gain <= max(g, h):
            found.append(min(c, d) if g == h else c + (gain - g) / (h - g) * (d - c))
    return min(found, default=math.nan)
