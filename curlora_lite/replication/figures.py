"""The tidy frame -> matplotlib figures, legible in print and to the colour-blind."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from .. import metrics
from . import fetch, runs
from .tables import MODELS, TASKS, by_method, number, one_grid, task_label

# Okabe and Ito's colours; the marker tells methods apart without them.
STYLES = {"head-only": ("#777777", "s"), "lora": ("#D55E00", "^"), "curlora": ("#0072B2", "o")}
STYLES |= {"lora-xs": ("#009E73", "D")}
STYLES = {method: {"color": c, "marker": m} for method, (c, m) in STYLES.items()}
DOTTED = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 2))}


def save(figure, stem):
    """Write `<stem>.png` (200 dpi) and `<stem>.pdf`; returns the figure."""
    for suffix, options in ((".png", {"dpi": 200}), (".pdf", {"metadata": {"CreationDate": None}})):
        with fetch.aside(Path(f"{stem}{suffix}")) as part:
            figure.savefig(part, bbox_inches="tight", **options)
    return figure


def new(widths=(1,), width=4.6, height=2.8) -> tuple[Figure, list]:
    """A figure and its panels side by side, of relative `widths`; inches.

    It is shown where it is returned.
    """
    figure, axes = plt.subplots(1, len(widths), figsize=(width, height), width_ratios=widths,
                                squeeze=False, layout="constrained")  # fmt: skip
    plt.close(figure)  # not twice
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", linewidth=0.4, alpha=0.6)
    return figure, list(axes[0])


def plain(axis, subs=(1, 2, 5)):
    """Ticks of a log axis at 1, 2 and 5 (or other `subs`), as plain numbers."""
    axis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def course(frame, table):
    """Accuracy of every task over the stages and, beside it, perplexity after over before.

    A line a method and rank, named at its end: give it the rows of one rank. Sentiment140 counts by
    its balanced rows where those were scored. Bars: one standard deviation over seeds or, of a
    single run, Wilson's 95 % interval.
    """
    rows, cells = _finished(frame, table)
    figure, (*axes, last) = new((3, 2, 1.6, 1.6), width=10.6, height=3)
    for j, (ax, task) in enumerate(zip(axes, TASKS, strict=True), 1):
        even = task == "sentiment140" and runs.BALANCED in set(rows.task)
        counted = runs.BALANCED if even else task
        for shift, (style, cell) in zip(np.linspace(-0.1, 0.1, len(cells)), cells, strict=True):
            scored = cell[(cell.measure == "accuracy") & (cell.task == counted)]
            _draw(ax, scored, style, shift)
        first = scored.iloc[0]
        ax.axhline(first.majority, **DOTTED)
        said = f"{task_label(task, first.source)}\n{first.n:,} rows{', half positive' * even}"
        ax.set_title(said, fontsize=9)
        _stages(ax, j, first.source)
    plt.setp(axes, ylim=np.sort([ax.get_ylim() for ax in axes], axis=None)[[0, -1]])
    axes[0].set_ylabel("accuracy")
    _names(axes[1])
    _ratios(last, cells)
    return _finish(figure, rows)


def perplexity(frame, table):
    """Perplexity after the three tasks over perplexity before, a point a method and rank.

    Geometric means; bars: one standard deviation of the logarithm over seeds.
    """
    rows, cells = _finished(frame, table)
    figure, (ax,) = new(width=4.6)
    _ratios(ax, cells)
    return _finish(figure, rows)


def _finished(frame, table):
    """The finished runs of one table, and (style, rows) of each method and rank."""
    rows = one_grid(frame, table)
    rows = rows[rows.status == "finished"]
    if rows.empty:
        raise ValueError(f"frame: no run of {table} finished, expected at least one to draw")
    each = by_method(rows)
    return rows, [(STYLES[c.method.iloc[0]] | {"label": label}, c) for label, c in each]


def _ratios(ax, cells):
    for k, (style, cell) in enumerate(cells):
        nats = runs.summary(cell).nats
        middle, spread = np.exp(nats.mean()), np.exp(np.nan_to_num(nats.std()))
        bars = [[middle - middle / spread], [middle * spread - middle]]
        ax.errorbar(k, middle, bars, markersize=5, capsize=2, elinewidth=0.7, **style)
        ax.annotate(f"×{number(middle)}", (k, middle * spread), (0, 6), ha="center",
                    textcoords="offset points", fontsize=7)  # fmt: skip
    ax.axhline(1, **DOTTED)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(0.8, low), max(2.0, 1.4 * high))
    plain(ax.yaxis, (1, 1.5, 2, 3, 5))
    names = [style["label"] for style, _ in cells]
    ax.set_xticks(range(len(cells)), names, rotation=40, ha="right", fontsize=8)
    ax.set_xlim(-0.5, len(cells) - 0.5)
    ax.set_title("perplexity\nafter / before", fontsize=9)


def _names(ax):
    """What the lines are, at their right ends; moved apart where these are close together."""
    ends = [(c.lines[0].get_ydata()[-1], c.get_label(), c.lines[0].get_color())
            for c in ax.containers]  # fmt: skip
    ends.append((ax.lines[-1].get_ydata()[-1], "majority class", "black"))
    place, (low, high) = -np.inf, ax.get_ylim()
    for y, name, colour in sorted(ends):
        place = max(y, place + 0.08 * (high - low))
        ax.text(ax.get_xlim()[1], place, name, color=colour, fontsize=8, va="center")


def _draw(ax, rows, style, shift):
    """A line of means over seeds by stage, with bars of one standard deviation where several.

    shift: moves the line sideways, so that equal values do not hide each other. A single run has
    Wilson's interval.
    """
    stages = rows.groupby("stage")
    middle, sd = stages.value.mean(), stages.value.std()
    spread = [sd.fillna(0)] * 2
    if sd.isna().all():
        found = [metrics.wilson_interval(*p) for p in zip(middle, stages.n.first(), strict=True)]
        spread = [[i.mean - i.low for i in found], [i.high - i.mean for i in found]]
    bars = {"yerr": spread, "capsize": 2, "elinewidth": 0.7} if np.any(spread) else {}
    ax.errorbar(middle.index + shift, middle, markersize=5, linewidth=1.3, **bars, **style)


def _stages(ax, first, source):
    names = [task_label(task, source).replace("Sentiment140", "Sent.140") for task in TASKS]
    ax.set_xticks(range(first, len(names) + 1), names[first - 1 :], fontsize=9)
    ax.set_xlim(first - 0.35, len(names) + 0.35)
    ax.set_xlabel("after training on", fontsize=9)


def _finish(figure, rows):
    """Whose figure it is, so that it can stand alone."""
    first, seeds = rows.iloc[0], sorted(rows.seed.unique())
    said = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    figure.suptitle(f"{MODELS[first.model]}, {first.profile} profile, {said}", fontsize=9)
    return figure
