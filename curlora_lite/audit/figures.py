"""The audit's figures: one or two a question, each from the records of its Conditions."""

import functools
import math
import statistics

from .. import metrics, paper, profiles
from ..figures import STYLES, new, plain
from . import movement, plan, selection
from .drawing import DOTTED, MOVERS, OTHER, RULES, around, curve, from_zero, interval, names
from .factors import FACTORS, MODELS, effects
from .measures import applied_rates, at, difference, done, lora_sweeps, mean, place, values
from .text import majority, scored, selection_label, switch_label, weighting_label


def head_only(found):
    """ACC at the end of each method, a panel a model; dotted: the majority class."""
    places = list(dict.fromkeys(place(cell) for cell in found))
    figure, axes = new(len(places), width=3.1 * len(places) + 1, height=2.6)
    for ax, where in zip(axes, places, strict=True):
        cells = at(found, where)
        for y, (cell, runs) in enumerate(cells.items()):
            interval(ax, y, values(runs, "acc").values(), MOVERS.get(cell.name, OTHER))
        ax.axvline(majority(next(iter(cells.values()))), **DOTTED)
        names(ax, [cell.name for cell in cells])
        ax.set_xlabel("accuracy over the tasks, at the end", fontsize=8)
        ax.set_title(where, fontsize=9)
    ends = [ax.get_xlim() for ax in axes]
    most = max(len(ax.get_yticks()) for ax in axes)
    for ax in axes:  # one scale
        ax.set_ylim(most - 0.5, -0.5)
        ax.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
    return figure


def collapse(found):
    """LoRA over learning rates: accuracy just learned, and perplexity after over before."""
    figure, axes = new(2, width=8.2, height=3)
    lines = {"alpha": "-", "alpha/r": "--"}
    styles = {"authors": STYLES["lora"], "usual": MOVERS["LoRA-16, usual init"]}
    sweeps = lora_sweeps(found)
    for i, ((init, scaling), sweep) in enumerate(sweeps.items()):
        aside = 1.09 ** (i - (len(sweeps) - 1) / 2)
        style = {
            **styles[init],
            "linestyle": lines[scaling],
            "label": f"{plan.INITS[init]}, {scaling}",
        }
        curve(axes[0], sweep, "learned", style, aside)
        curve(axes[1], sweep, "ratio", style, aside)
    cells = [runs for sweep in sweeps.values() for runs in sweep.values()]
    around(axes[0], [mean(runs, "learned") for runs in cells])
    axes[0].set_ylabel("accuracy, just learned", fontsize=8)
    axes[1].set_ylabel("perplexity, after / before (log)", fontsize=8)
    axes[1].set_yscale("log")
    axes[1].set_ylim(0.8, 2 * max(mean(runs, "ratio") or 1 for runs in cells))
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlabel("learning rate (log)", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def sentiment(found):
    """What is answered on balanced rows, in percent; the accuracy there beside each bar."""
    cells = {cell: done(runs) for cell, runs in found.items() if done(runs)}
    figure, (ax,) = new(1, width=7.4, height=0.34 * len(cells) + 1.3)
    colours = (
        ("negative", "#0072B2", ""),
        ("positive", "#E69F00", "//"),
        ("third", "#999999", "x"),
    )
    answered = {cell: [r.stages[-1]["scores"][metrics.BALANCED] for r in runs]
                for cell, runs in cells.items()}  # fmt: skip
    given = [max(k for s in scores for k, n in enumerate(s["predicted"]) if n)
             for scores in answered.values()]  # fmt: skip
    colours = colours[: max(given) + 1]  # the third is never answered under published labels
    for y, scores in enumerate(answered.values()):
        left, total = 0.0, sum(score["n"] for score in scores)
        for k, (label, colour, hatch) in enumerate(colours):
            share = 100 * sum(score["predicted"][k] for score in scores) / total
            ax.barh(y, share, left=left, color=colour, hatch=hatch, edgecolor="white",
                    label=label if y == 0 else None)  # fmt: skip
            left += share
        right = statistics.fmean(score["accuracy"] for score in scores)
        ax.text(101, y, f"{right:.2f}", va="center", fontsize=8)
    names(ax, [f"{place(cell)}: {cell.name}" for cell in cells])
    ax.axvline(50, **DOTTED)
    ax.set_xlim(0, 108)
    ax.set_xlabel("answers on as many positive as negative rows, %; right: accuracy", fontsize=8)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def schedule(_):
    """The learning rate by step at the paper's sizes, published and proper, % of the nominal."""
    figure, axes = new(2, width=8.2, height=2.6)
    names = {"table1": "mistral-7b", "table2": "gpt2-large"}
    for ax, (table, name) in zip(axes, names.items(), strict=True):
        sizes = profiles.profile_named(name).tables[table]
        for kind, colour, line in (("records", "#D55E00", "-"), ("steps", "#0072B2", "--")):
            start = 0
            for task in sizes.tasks:
                rates = [100 * share for share in applied_rates(task, sizes.batch, kind)]
                label = {"records": "published", "steps": "proper"}[kind] if start == 0 else None
                ax.plot(range(start, start + len(rates)), rates, line, color=colour, label=label)
                start += len(rates)
        ax.set_title(f"{paper.MODELS[table]}: MRPC, SST-2, Sentiment140", fontsize=9)
        ax.set_xlabel("optimiser step", fontsize=8)
    axes[0].set_ylabel("learning rate, % of nominal", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def rules(found):
    """By the rule that rows and columns are drawn by: ACC, and how far the weights moved."""
    cells = selection.published(found)
    figure, axes = new(2, width=8, height=2.9)
    for y, runs in enumerate(cells.values()):
        interval(axes[0], y, values(runs, "acc").values(), OTHER)
        interval(axes[1], y, [100 * v for v in values(runs, "update").values()], OTHER)
    axes[0].axvline(majority(next(iter(cells.values()))), **DOTTED)
    names(axes[0], [selection_label(cell.protocol) for cell in cells])
    names(axes[1], [""] * len(cells))
    axes[0].set_xlabel("accuracy over the tasks, at the end", fontsize=8)
    axes[1].set_xlabel("‖CUR‖ / ‖W‖ at the end, % (log)", fontsize=8)
    axes[1].set_xscale("log")
    plain(axes[1].xaxis)
    return figure


def rules_moved(found):
    """The rules over learning rates, by how far they move the weights: learned, lost, forgotten."""
    figure, axes = new(3, width=10.5, height=3)
    heads = selection.heads(found)
    for name, sweep in selection.moved(found).items():
        label = weighting_label(plan.corrected(weighting=name))
        line = "-" if name == selection.EQ4 else "none"
        for ax, measure in zip(axes, selection.MEASURES, strict=True):
            points = _means(
                selection.over_head(runs, heads.get(rate, []), measure)
                for rate, runs in sweep.items()
            )
            if points:
                ax.plot(*zip(*points, strict=True), markersize=5, linewidth=0.9, linestyle=line,
                        label=label, **RULES[name])  # fmt: skip
    for ax in axes:
        ax.set_xscale("log")
        plain(ax.xaxis, (1,))
        ax.tick_params(labelsize=8)
        ax.set_xlabel("‖CUR‖ / ‖W‖ at the end, % (log)", fontsize=8)
    axes[0].set_ylabel("just learned, over head only there", fontsize=8)
    axes[1].set_ylabel("forgetting", fontsize=8)
    axes[2].set_ylabel("perplexity growth, nats (symlog)", fontsize=8)
    from_zero(axes[2])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _means(cells):
    """(‖CUR‖ / ‖W‖ in percent, measure) of each cell, means over seeds."""
    return [
        tuple(map(statistics.fmean, zip(*((100 * math.exp(x), y) for x, y in one), strict=True)))
        for one in (cell.values() for cell in cells)
        if one
    ]


def by_rate(found):
    """Just-learned accuracy by learning rate: each method's, and what it adds to head only there;
    grey: head only, with its interval over seeds."""
    figure, axes = new(2, width=9.6, height=3.4)
    heads = movement.heads(found)
    curve(axes[0], heads, "learned", {**MOVERS["Head only"], "label": "Head only", "zorder": 3})
    for name, sweep in movement.sweeps(found).items():
        means = [(rate, mean(runs, "learned")) for rate, runs in sweep.items()]
        pairs = [(r, difference(runs, heads.get(r, []), "learned")) for r, runs in sweep.items()]
        added = [(rate, pair.mean) for rate, pair in pairs if pair]
        for ax, points in zip(axes, ([m for m in means if m[1] is not None], added), strict=True):
            if points:
                ax.plot(*zip(*points, strict=True), markersize=4, linewidth=0.9, label=name,
                        **MOVERS[name])  # fmt: skip
    axes[1].axhline(0, **DOTTED)
    everything = [
        *heads.values(),
        *(r for s in movement.sweeps(found).values() for r in s.values()),
    ]
    around(axes[0], [mean(runs, "learned") for runs in everything])
    for ax in axes:
        ax.set_xscale("log")
        ax.tick_params(labelsize=8)
        ax.set_xlabel("learning rate (log)", fontsize=8)
    axes[0].set_ylabel("accuracy, just learned", fontsize=8)
    axes[1].set_ylabel("over head only at the same rate", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def frontier(found):
    """The plasticity-stability frontier: a line a method, a point a learning rate (the larger, the
    larger), by what it learns more than head only at its best rate; dotted: the table's levels."""
    figure, axes = new(2, width=9.6, height=3.6)
    base = mean(movement.head_alone(found)[1], "learned")
    for name, sweep in {"Head only": movement.heads(found), **movement.sweeps(found)}.items():
        for ax, measure in zip(axes, movement.PRICES, strict=True):
            points = [(mean(runs, "learned"), mean(runs, measure)) for runs in sweep.values()]
            points = [(x - base, y) for x, y in points if x is not None]
            if points:
                style = MOVERS[name]
                across, up = zip(*points, strict=True)
                ax.plot(across, up, linewidth=0.6, alpha=0.6, color=style["color"])
                growing = [12 + 48 * i / len(points) for i in range(len(points))]
                ax.scatter(across, up, growing, color=style["color"], marker=style["marker"],
                           label=name, zorder=3)  # fmt: skip
    for ax in axes:
        for level in movement.prices(found):
            ax.axvline(level, **DOTTED)
        ax.tick_params(labelsize=8)
        ax.set_xlabel("accuracy just learned, over head only's best", fontsize=8)
    from_zero(axes[0])
    axes[0].set_ylabel("perplexity growth, nats per token (symlog)", fontsize=8)
    axes[1].set_ylabel("forgetting", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def factors(found, where):
    """What each switch alone changes, from the published protocol, of one model; 95 % intervals
    over seeds."""
    cells = at(found, where)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    figure, axes = new(3, width=11, height=4.2)
    shown = (cell.protocol for cell in cells if not scored(cell.protocol))
    rows = list(dict.fromkeys(map(switch_label, shown)))[1:]
    rows.sort(key=lambda row: row.startswith("corrected"))  # all of them last
    for cell, _, pairs in effects(cells):
        k = methods.index(cell.method)
        for ax, measure in zip(axes, FACTORS, strict=True):
            if pair := pairs[measure]:
                y = rows.index(switch_label(cell.protocol)) + (k - 1) * 0.25
                bars = [[pair.mean - pair.low], [pair.high - pair.mean]]
                ax.errorbar(pair.mean, y, xerr=bars, markersize=4, capsize=2, elinewidth=0.8,
                            linestyle="none", **STYLES[cell.method])  # fmt: skip
    titles = ("change of ACC", "change of forgetting", "change of perplexity growth, nats (symlog)")
    for ax, title in zip(axes, titles, strict=True):
        names(ax, rows if ax is axes[0] else [""] * len(rows))
        ax.axvline(0, **DOTTED)
        ax.set_xlabel(title, fontsize=8)
        ax.tick_params(labelsize=8)
    for ax in axes[:2]:
        ax.locator_params(axis="x", nbins=5)
    axes[2].set_xscale("symlog", linthresh=0.1)
    axes[1].set_title(where, fontsize=9)
    handles = [
        axes[0].plot([], [], linestyle="none", label=profiles.method_label(m, None), **STYLES[m])[0]
        for m in methods
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8)
    return figure


ALL = {
    "head-only": {"head_only": head_only},
    "collapse": {"collapse": collapse},
    "sentiment": {"sentiment": sentiment},
    "schedule": {"schedule": schedule},
    "selection": {"selection": rules, "selection_moved": rules_moved},
    "movement": {"movement_rates": by_rate, "movement": frontier},
    "factors": {name: functools.partial(factors, where=where) for name, where in MODELS.items()},
}
