"""How the audit's figures draw: styles of methods and rules, intervals, sweeps, limits of axes."""

import math

from .. import metrics
from ..figures import STYLES
from .measures import values

# Okabe and Ito's colours, a marker each.
MOVERS = {
    "Head only": STYLES["head-only"],
    "LoRA-16, author's init": STYLES["lora"],
    "LoRA-16, usual init": {"color": "#E69F00", "marker": "v"},
    "CURLoRA-16": STYLES["curlora"],
    "Full weights": {"color": "#000000", "marker": "D"},
    "LoRA (PEFT)-16": {"color": "#CC79A7", "marker": "<"},
    "VeRA (PEFT)": {"color": "#009E73", "marker": "P"},
    "OSF (PEFT)": {"color": "#56B4E9", "marker": "X"},
}
RULES = {
    "inverted": STYLES["curlora"],
    "smoothed": {"color": "#E69F00", "marker": "v"},
    "uniform": {"color": "#009E73", "marker": "s"},
    "importance": {"color": "#CC79A7", "marker": "D"},
}
DOTTED = {"color": "black", "linewidth": 0.9, "linestyle": ":"}
OTHER = {"color": "#0072B2", "marker": "o"}


def interval(ax, y, found, style):
    """A point with its interval over seeds, at height `y`; nothing if there is no value."""
    found = list(found)
    if not found:
        return
    middle, low, high = (found[0],) * 3 if len(found) == 1 else metrics.t_interval(found)
    ax.errorbar(
        middle, y, xerr=[[middle - low], [high - middle]], markersize=5, capsize=2,
        elinewidth=0.8, linestyle="none", **style,
    )  # fmt: skip


def names(ax, shown):
    """Names down the side, the first on top."""
    ax.set_yticks(range(len(shown)), shown, fontsize=8)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", linewidth=0.4, alpha=0.6)


def curve(ax, cells, measure, style, aside=1.0):
    """Means with 95 % intervals over seeds by learning rate; `ratio`'s are of its logarithm.

    aside: factor by which points stand beside their rate, so that bars of several can be told.
    """
    logarithm = measure == "ratio"
    points = {rate: list(values(runs, "nats" if logarithm else measure).values())
              for rate, runs in sorted(cells.items())}  # fmt: skip
    points = {rate: found for rate, found in points.items() if found}
    if not points:
        return
    intervals = [
        metrics.t_interval(found) if len(found) > 1 else (found[0],) * 3
        for found in points.values()
    ]
    if logarithm:
        intervals = [tuple(math.exp(min(x, 700)) for x in one) for one in intervals]
    bars = [[m - low for m, low, _ in intervals], [high - m for m, _, high in intervals]]
    at = [aside * rate for rate in points]
    ax.errorbar(at, [m for m, *_ in intervals], yerr=bars, capsize=2, elinewidth=0.6,
                markersize=4, linewidth=1.1, **style)  # fmt: skip


def around(ax, middles):
    """Limits around the means: intervals of two or three seeds may leave the frame."""
    middles = [m for m in middles if m is not None]
    room = 0.4 * (max(middles) - min(middles)) + 0.02
    ax.set_ylim(min(middles) - room, max(middles) + room)


def from_zero(ax):
    """Symlog above zero; a little below, where perplexity falls by chance."""
    ax.set_yscale("symlog", linthresh=0.01)
    ax.set_ylim(-0.01, 2 * max(0.01, ax.dataLim.y1))
