"""Records -> matplotlib figures, legible in print and to the colour-blind."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from . import fetch, metrics, paper
from .profiles import method_label
from .records import by_cell

# Okabe and Ito's colours; the marker tells methods apart without them.
STYLES = {
    "head-only": {"color": "#777777", "marker": "s"},
    "lora": {"color": "#D55E00", "marker": "^"},
    "curlora": {"color": "#0072B2", "marker": "o"},
}
LINES = ("-", "--", ":", "-.")
STAGES = ("MRPC", "SST-2", "Sentiment140")
TASKS = ("mrpc", "sst2", "sentiment140")


def save(figure, stem):
    """Write `<stem>.png` (200 dpi) and `<stem>.pdf`; returns the two paths."""
    paths = []
    for suffix, options in ((".png", {"dpi": 200}), (".pdf", {"metadata": {"CreationDate": None}})):
        path = stem.with_name(stem.name + suffix)
        with fetch.aside(path) as part:
            figure.savefig(part, format=suffix[1:], bbox_inches="tight", **options)
        paths.append(path)
    return paths


def _cells(records):
    """The finished records by method and rank; ValueError if there is none to draw."""
    cells = by_cell([record for record in records if record.status == "finished"])
    if not cells:
        raise ValueError(f"records: none of {len(records)} is finished, expected one at least")
    return cells


def _style(method, rank, ranks):
    line = "-" if rank is None else LINES[sorted(set(ranks)).index(rank) % len(LINES)]
    return {**STYLES[method], "linestyle": line, "label": method_label(method, rank)}


def _plot(ax, x, values, style, shift=0.0):
    """A line of means over seeds, with a bar of one standard deviation where there are several.

    shift: moves the line sideways, so that equal values do not hide each other.
    """
    points = [metrics.mean_and_spread(v) for v in values]
    spread = [p[1] or 0 for p in points]
    bars = {"yerr": spread, "capsize": 2, "elinewidth": 0.8} if any(spread) else {}
    shifted = [place + shift for place in x]
    ax.errorbar(shifted, [p[0] for p in points], markersize=5, linewidth=1.3, **bars, **style)


def _ranks(cells):
    return [rank for _, rank in cells if rank is not None]


def _new(columns=1, width=None, height=2.8) -> tuple[Figure, list]:
    figure, axes = plt.subplots(
        1,
        columns,
        figsize=(width or 3.0 * columns + 1.6, height),
        squeeze=False,
        layout="constrained",
    )
    plt.close(figure)  # shown where it is returned, not twice
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", linewidth=0.4, alpha=0.6)
    return figure, list(axes[0])


def _stage_axis(ax, first):
    names = STAGES[first:]
    ax.set_xticks(range(first, len(STAGES)), names)
    ax.set_xlim(first - 0.25, len(STAGES) - 0.75)
    ax.set_xlabel("after training on")


def accuracy(records):
    """Accuracy of every task over the stages, one panel a task, a line a method and rank."""
    cells = _cells(records)
    figure, axes = _new(len(STAGES))
    for j, (ax, (task, label)) in enumerate(
        zip(axes, zip(TASKS, STAGES, strict=True), strict=True)
    ):
        stages = range(j, len(STAGES))
        for k, ((method, rank), runs) in enumerate(cells.items()):
            values = [[run.accuracy(task, i + 1) for run in runs] for i in stages]
            shift = 0.05 * (k - (len(cells) - 1) / 2)
            _plot(ax, list(stages), values, _style(method, rank, _ranks(cells)), shift)
        score = next(iter(cells.values()))[0].score(task, len(STAGES))
        ax.axhline(score["majority"], color="black", linewidth=0.9, linestyle=(0, (1, 2)))
        ax.annotate("majority class", (0.02, score["majority"]), xycoords=("axes fraction", "data"),
                    fontsize=7, va="bottom")  # fmt: skip
        name = label if records[0].spec["source"] == "paper" else f"{label} stand-in"
        ax.set_title(f"{name} (n = {score['n']})", fontsize=10)
        ax.set_ylim(0, 1)
        _stage_axis(ax, j)
    axes[0].set_ylabel("accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def perplexity(records):
    """Perplexity before and after the three tasks, log axis, one line a method and rank."""
    cells = _cells(records)
    figure, (ax,) = _new(1, width=5.2)
    for (method, rank), runs in cells.items():
        values = [
            [run.perplexity["initial"]["perplexity"] for run in runs],
            [run.final_perplexity() for run in runs],
        ]
        _plot(ax, [0, 1], values, _style(method, rank, _ranks(cells)))
    ax.set_yscale("log")
    ax.set_xticks([0, 1], ["before", "after three tasks"])
    ax.set_xlim(-0.2, 1.2)
    ax.set_ylabel("perplexity (log scale)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def parameters(records):
    """Trainable parameters of each adapter by rank, log axis; of the models that were run."""
    cells = {cell: runs for cell, runs in _cells(records).items() if cell[0] != "head-only"}
    figure, (ax,) = _new(1, width=4.6)
    ranks = sorted(set(_ranks(cells)))
    for shift, method in ((-0.2, "lora"), (0.2, "curlora")):
        counts = {
            r: cells[method, r][0].trainable["adapter"] for r in ranks if (method, r) in cells
        }
        places = [ranks.index(r) + shift for r in counts]
        name = method_label(method, None)
        bars = ax.bar(places, counts.values(), 0.38, color=STYLES[method]["color"], label=name)
        ax.bar_label(bars, [f"{c:,}" for c in counts.values()], fontsize=7, padding=2)
    ax.set_yscale("log")
    ax.set_xticks(range(len(ranks)), [str(r) for r in ranks])
    ax.set_xlabel("rank")
    ax.set_ylabel("trainable parameters (log scale)")
    ax.margins(y=0.15)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def growth(records):
    """||W_adapted||_F / ||W||_F after each stage: mean over projections, the paper's §4 claim."""
    cells = {cell: runs for cell, runs in _cells(records).items() if cell[0] != "head-only"}
    figure, (ax,) = _new(1, width=5.2, height=3.2)
    for (method, rank), runs in cells.items():
        values = [[_mean_norm(run, i) for run in runs] for i in range(len(STAGES))]
        _plot(ax, list(range(len(STAGES))), values, _style(method, rank, _ranks(cells)))
    _stage_axis(ax, 0)
    ax.set_yscale("log")
    ax.set_ylabel(r"$\Vert W_\mathrm{adapted}\Vert_F \,/\, \Vert W\Vert_F$", fontsize=9)
    ax.set_title("mean over wrapped projections", fontsize=9)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _mean_norm(record, stage):
    norms = record.stages[stage]["norms"].values()
    return sum(norms) / len(norms)


def selection(probabilities):
    """Sorted probabilities of Eq. 3 and Eq. 4 and the author's: name -> (n,) tensor."""
    figure, (ax,) = _new(1, width=5.2)
    colours = ("#0072B2", "#D55E00", "#009E73", "#777777")
    for (name, p), colour, line in zip(probabilities.items(), colours, LINES, strict=False):
        ax.plot(p.sort().values * len(p), color=colour, linestyle=line, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("column, sorted by each probability")
    ax.set_ylabel("probability × number of columns")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


ALL = {"accuracy": accuracy, "perplexity": perplexity, "parameters": parameters, "growth": growth}


def save_all(records, folder):
    """Every figure of one table into `folder` as `<table>_<figure>`; returns name -> Figure."""
    table = records[0].spec["table"]
    if table not in paper.MODELS:
        raise ValueError(f"table: got {table!r}, expected one of {', '.join(paper.MODELS)}")
    drawn = {name: draw(records) for name, draw in ALL.items()}
    for name, figure in drawn.items():
        save(figure, folder / f"{table}_{name}")
    return drawn
