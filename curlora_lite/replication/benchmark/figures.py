"""What the benchmark measured -> figures: step time and memory of every contender."""

from .. import figures
from .tables import LABELS, NEAR, by_device, middle, one, order

STYLES = {
    "curlora": figures.STYLES["curlora"],
    "lora": figures.STYLES["lora"],
    "factored": {"color": "#56B4E9", "marker": "D"},
    "dense": {"color": "#009E73", "marker": "v"},
    "vera": {"color": "#CC79A7", "marker": "P"},
}
FILLS = {"fp32": "full", "bf16": "none"}


def steps(rows):
    """Training step over the frozen model's, ± half the distance between the quartiles."""
    training = [row for row in rows if row["pass"] == "training"]
    figure, axes = _panels(training, lambda row: middle(row["ratios"]))
    for ax in axes:
        ax.axhline(1, color="black", linewidth=0.9)
        ax.axhline(NEAR, color="black", linewidth=0.9, linestyle=(0, (1, 2)))
        figures.plain(ax.yaxis)
    axes[0].set_ylabel("forward and backward,\ntime / frozen model's (log)", fontsize=9)
    return figure


def kept(rows):
    """Bytes a token that are kept for the backward pass beyond what the frozen model keeps."""

    def beyond(row):
        at = {key: row[key] for key in ("subject", "dtype")}
        return (row["kept_bytes"] - one(rows, "limit", None, **at)["kept_bytes"]) / row["tokens"], 0

    figure, axes = _panels(rows, beyond)
    axes[0].set_ylabel("kept for the backward pass\nbeyond frozen, bytes a token (log)", fontsize=9)
    return figure


def _panels(rows, value):
    """A panel a subject, a point a contender and dtype; log axis, shared."""
    shown = [subject for subject in LABELS if any(row["subject"] == subject for row in rows)]
    keys = [key for key in order(rows) if key[0] != "limit"]
    figure, axes = figures.new(len(shown), width=2.3 * len(shown) + 1.2, height=3.4)
    for ax, subject in zip(axes, shown, strict=True):
        ax.sharey(axes[0])
        for place, (kind, rank) in enumerate(keys):
            for shift, (dtype, fill) in zip((-0.15, 0.15), FILLS.items(), strict=True):
                row = one(rows, kind, rank, subject=subject, dtype=dtype)
                if row is not None:
                    height, spread = value(row)
                    bar = {"yerr": spread, "capsize": 2, "elinewidth": 0.7} if spread else {}
                    style = {**STYLES[kind], "fillstyle": fill, "linestyle": "none"}
                    ax.errorbar(place + shift, height, markersize=4.5, **bar, **style)
        names = [kind if rank is None else f"{kind}-{rank}" for kind, rank in keys]
        ax.set_xticks(range(len(keys)), names, rotation=70, ha="right", fontsize=7)
        ax.set_title(LABELS[subject], fontsize=9)
        ax.set_yscale("log")
    for dtype, fill in FILLS.items():
        axes[-1].plot([], [], "o", color="black", fillstyle=fill, markersize=4.5, label=dtype)
    figure.legend(loc="outside right center", fontsize=8)
    return figure, axes


def draw(result):
    """name -> Figure: `training_<device>` and `kept_<device>` of each device."""
    drawn = {}
    for device, rows in by_device(result["rows"]):
        drawn[f"training_{device}"] = steps(rows)
    for device, rows in by_device(result["sizes"]):
        drawn[f"kept_{device}"] = kept(rows)
    return drawn
