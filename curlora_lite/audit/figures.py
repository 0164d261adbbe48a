"""The audit's figures: one a question, each from the records of its Conditions."""

import statistics

from .. import metrics, paper, profiles, training
from ..figures import STYLES, new, plain
from .measures import mean, place, values
from .tables import difference, majority, movement_sweeps, selection_label, switch_label

# Okabe and Ito's colours, a marker each.
MOVERS = {
    "Head only": STYLES["head-only"],
    "LoRA-16, authors init": STYLES["lora"],
    "LoRA-16, usual init": {"color": "#E69F00", "marker": "v"},
    "CURLoRA-16": STYLES["curlora"],
    "Full fine-tuning": {"color": "#000000", "marker": "D"},
    "LoRA (PEFT)-16": {"color": "#CC79A7", "marker": "<"},
    "VeRA (PEFT)": {"color": "#009E73", "marker": "P"},
    "OSF (PEFT)": {"color": "#56B4E9", "marker": "X"},
}
DOTTED = {"color": "black", "linewidth": 0.9, "linestyle": ":"}
OTHER = {"color": "#0072B2", "marker": "o"}


def _bars(ax, y, found, style):
    """A point with its interval over seeds, at height `y`; nothing if there is no value."""
    found = list(found)
    if not found:
        return
    middle, low, high = (found[0],) * 3 if len(found) == 1 else metrics.t_interval(found)
    ax.errorbar(
        middle, y, xerr=[[middle - low], [high - middle]], markersize=5, capsize=2,
        elinewidth=0.8, linestyle="none", **style,
    )  # fmt: skip


def _names(ax, names):
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", linewidth=0.4, alpha=0.6)


def head_only(found):
    """ACC at the end of each method, a panel a model; dotted: the majority class."""
    places = list(dict.fromkeys(place(cell) for cell in found))
    figure, axes = new(len(places), width=3.1 * len(places) + 1, height=2.6)
    for ax, where in zip(axes, places, strict=True):
        cells = {cell: runs for cell, runs in found.items() if place(cell) == where}
        for y, (cell, runs) in enumerate(cells.items()):
            _bars(ax, y, values(runs, "acc").values(), MOVERS.get(cell.name, OTHER))
        ax.axvline(majority(next(iter(cells.values()))), **DOTTED)
        _names(ax, [cell.name for cell in cells])
        ax.set_xlabel("accuracy over the tasks, at the end", fontsize=8)
        ax.set_title(where, fontsize=9)
    return figure


def collapse(found):
    """LoRA over learning rates: accuracy just learned, and perplexity after over before."""
    figure, axes = new(2, width=8.2, height=3)
    lines = {"alpha": "-", "alpha/r": "--"}
    for init, style in (("authors", STYLES["lora"]), ("usual", MOVERS["LoRA-16, usual init"])):
        for scaling, line in lines.items():
            cells = {
                cell.rate: runs
                for cell, runs in found.items()
                if cell.rate and (cell.protocol.lora_init, cell.protocol.scaling) == (init, scaling)
            }
            label = f"{init} init, {scaling}"
            _sweep(axes[0], cells, "learned", {**style, "linestyle": line, "label": label})
            _sweep(axes[1], cells, "ratio", {**style, "linestyle": line, "label": label})
    axes[0].set_ylabel("accuracy, just learned", fontsize=8)
    axes[1].set_ylabel("perplexity, after / before (log)", fontsize=8)
    axes[1].set_yscale("log")
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlabel("learning rate (log)", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _sweep(ax, cells, measure, style):
    points = [(rate, list(values(runs, measure).values())) for rate, runs in sorted(cells.items())]
    points = [(rate, found) for rate, found in points if found]
    if not points:
        return
    middles = [statistics.fmean(found) for _, found in points]
    bars = {}
    if all(len(found) > 1 for _, found in points):
        intervals = [metrics.t_interval(found) for _, found in points]
        low = [max(0, m - max(i[1], m / 100)) for m, i in zip(middles, intervals, strict=True)]
        bars = {"yerr": [low, [i[2] - i[0] for i in intervals]], "capsize": 2, "elinewidth": 0.6}
    ax.errorbar([rate for rate, _ in points], middles, markersize=4, linewidth=1.1, **bars, **style)


def sentiment(found):
    """What is answered on balanced rows, in percent; the accuracy there beside each bar."""
    cells = {cell: [r for r in runs if r.status == "finished"] for cell, runs in found.items()}
    cells = {cell: runs for cell, runs in cells.items() if runs}
    figure, (ax,) = new(1, width=7.4, height=0.34 * len(cells) + 1.3)
    colours = (
        ("negative", "#0072B2", ""),
        ("positive", "#E69F00", "//"),
        ("third", "#999999", "x"),
    )
    for y, runs in enumerate(cells.values()):
        scores = [run.stages[-1]["scores"][metrics.BALANCED] for run in runs]
        left, total = 0.0, sum(score["n"] for score in scores)
        for k, (label, colour, hatch) in enumerate(colours):
            share = 100 * sum(score["predicted"][k] for score in scores) / total
            ax.barh(y, share, left=left, color=colour, hatch=hatch, edgecolor="white",
                    label=label if y == 0 else None)  # fmt: skip
            left += share
        right = statistics.fmean(score["accuracy"] for score in scores)
        ax.text(101, y, f"{right:.2f}", va="center", fontsize=8)
    _names(ax, [f"{place(cell)}: {cell.name}" for cell in cells])
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
        plan = profiles.profile_named(name).tables[table]
        for kind, colour, line in (("records", "#D55E00", "-"), ("steps", "#0072B2", "--")):
            start = 0
            for task in plan.tasks:
                steps = task.epochs * -(-task.train_rows // plan.batch)
                rates = [100 * training.rate(i, steps, task.peak, kind) for i in range(steps)]
                label = {"records": "published", "steps": "proper"}[kind] if start == 0 else None
                ax.plot(range(start, start + steps), rates, line, color=colour, label=label)
                start += steps
        ax.set_title(f"{paper.MODELS[table]}: MRPC, SST-2, Sentiment140", fontsize=9)
        ax.set_xlabel("optimiser step", fontsize=8)
    axes[0].set_ylabel("learning rate, % of nominal", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def selection(found):
    """By the rule that rows and columns are drawn by: ACC, and how far the weights moved."""
    figure, axes = new(2, width=8, height=2.9)
    for y, runs in enumerate(found.values()):
        _bars(axes[0], y, values(runs, "acc").values(), OTHER)
        _bars(axes[1], y, [100 * v for v in values(runs, "update").values()], OTHER)
    axes[0].axvline(majority(next(iter(found.values()))), **DOTTED)
    _names(axes[0], [selection_label(cell.protocol) for cell in found])
    _names(axes[1], [""] * len(found))
    axes[0].set_xlabel("accuracy over the tasks, at the end", fontsize=8)
    axes[1].set_xlabel("‖CUR‖ / ‖W‖ at the end, % (log)", fontsize=8)
    axes[1].set_xscale("log")
    plain(axes[1].xaxis)
    return figure


def movement(found):
    """The plasticity-stability frontier: a line a method, a point a learning rate."""
    figure, axes = new(2, width=9.2, height=3.6)
    for name, sweep in movement_sweeps(found).items():
        for ax, measure in zip(axes, ("nats", "forgetting"), strict=True):
            points = [
                (mean(runs, "learned"), mean(runs, measure)) for _, runs in sorted(sweep.items())
            ]
            points = [point for point in points if point[0] is not None]
            ax.plot(
                *zip(*points, strict=True), markersize=5, linewidth=0.9, label=name, **MOVERS[name]
            )
    head = next(runs for cell, runs in found.items() if cell.method == "head-only")
    for ax, measure in zip(axes, ("nats", "forgetting"), strict=True):
        ax.plot(mean(head, "learned"), mean(head, measure), label="Head only", linestyle="none",
                markersize=7, **MOVERS["Head only"])  # fmt: skip
        ax.set_xlabel("accuracy on the task just learned", fontsize=8)
    axes[0].set_yscale("symlog", linthresh=0.01)
    axes[0].set_ylabel("perplexity growth, nats per token (symlog)", fontsize=8)
    axes[1].set_ylabel("forgetting", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def factors(found):
    """What each switch alone changes, from the published protocol; 95 % intervals over seeds."""
    methods = list(dict.fromkeys(cell.method for cell in found))
    figure, axes = new(2, width=9, height=4.2)
    rows = list(dict.fromkeys(switch_label(cell.protocol) for cell in found))[1:]
    for k, method in enumerate(methods):
        cells = {c: runs for c, runs in found.items() if c.method == method}
        (_, base), *others = cells.items()
        for cell, runs in others:
            y = rows.index(switch_label(cell.protocol)) + (k - 0.5) * 0.3
            for ax, measure in zip(axes, ("acc", "nats"), strict=True):
                pair = difference(runs, base, measure)
                if pair:
                    bars = [[pair.mean - pair.low], [pair.high - pair.mean]]
                    ax.errorbar(pair.mean, y, xerr=bars, markersize=4, capsize=2, elinewidth=0.8,
                                linestyle="none", **STYLES[method])  # fmt: skip
    for ax in axes:
        _names(ax, rows)
        ax.axvline(0, **DOTTED)
    axes[1].set_yticklabels([])
    axes[0].set_xlabel("change of ACC", fontsize=8)
    axes[1].set_xlabel("change of perplexity growth, nats (symlog)", fontsize=8)
    axes[1].set_xscale("symlog", linthresh=0.1)
    handles = [
        axes[0].plot([], [], linestyle="none", label=profiles.method_label(m, None), **STYLES[m])[0]
        for m in methods
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8)
    return figure


ALL = {
    "head-only": head_only,
    "collapse": collapse,
    "sentiment": sentiment,
    "schedule": schedule,
    "selection": selection,
    "movement": movement,
    "factors": factors,
}
