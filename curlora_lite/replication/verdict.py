"""What `make reproduce` says at its end: one table that fits a terminal, and three sentences."""

import math

from rich.console import Console
from rich.table import Table

from . import runs
from .conclusions import CONTRADICTED

# Each with the assertion that holds it, of the first table's means.
SENTENCES = (
    (
        "Language model: perplexity ×{curlora.ratio:.2f} with CURLoRA-{rank}, "
        "×{lora.ratio:.2f} with LoRA as published.",
        lambda curlora, lora, head: curlora.ratio < lora.ratio,
    ),
    (
        "Earlier tasks: CURLoRA keeps them (forgetting {curlora.forgetting:+.2f}; "
        "LoRA {lora.forgetting:+.2f}).",
        lambda curlora, lora, head: curlora.forgetting < 0.03,
    ),
    (
        "But it learns little beyond a head on the frozen model: accuracy {curlora.acc:.2f} "
        "against {head.acc:.2f}.",
        lambda curlora, lora, head: curlora.acc - head.acc < 0.05,
    ),
)


def show(frame):
    """Print the summary of a frame's runs, and the sentences where all of their runs are there."""
    finished = runs.summary(frame)
    if finished.empty:
        return
    means = finished.groupby(["label", "table"], sort=False)[["acc", "forgetting", "ratio"]].mean()
    tables, console = sorted(finished.table.unique()), Console(width=100, highlight=False)
    seeds = ", ".join(map(str, sorted(frame.seed.unique())))
    shown = Table(title=f"{frame.source.iloc[0]} data, seed {seeds}", title_justify="left")
    shown.add_column("")
    for table in tables:
        for column in ("accuracy", "forgetting", "perplexity ×"):
            shown.add_column(f"Table {table[-1]}\n{column}", justify="right")
    for label in means.index.unique("label"):
        cells = means.xs(label).reindex(tables).to_numpy().ravel()
        shown.add_row(label, *("" if math.isnan(x) else f"{round(x, 2) + 0.0:.2f}" for x in cells))
    whole = [finished[finished.table == table].run.iloc[0] for table in tables]
    constant = [f"{runs.majority(frame[frame.run == run]):.2f}" for run in whole]
    shown.add_row("Majority class", *(cell for share in constant for cell in (share, "", "")))
    console.print(shown)
    for said in sentences(means.xs(tables[0], level="table")):
        console.print(said)


def sentences(means):
    """`SENTENCES` with the numbers of the middle rank, marked where these runs contradict them."""
    ranks = sorted({int(label.split("-")[1]) for label in means.index if label.startswith("CUR")})
    rank = ranks[len(ranks) // 2] if ranks else None
    wanted = {"curlora": f"CURLoRA-{rank}", "lora": f"LoRA-{rank}", "head": "Head only"}
    if not set(wanted.values()) <= set(means.index):
        return []
    found = {name: means.loc[label] for name, label in wanted.items()}
    return [
        ("" if holds(**found) else f"{CONTRADICTED}: ") + said.format(rank=rank, **found)
        for said, holds in SENTENCES
    ]
