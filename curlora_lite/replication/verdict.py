"""What `make reproduce` says at its end: one table that fits a terminal, and three sentences."""

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from . import runs, tables
from .conclusions import CONTRADICTED

COLUMNS = {"ACC": "accuracy", "Forgetting": "forgetting", "Perplexity after/before": "perplexity ×"}

# Each with the assertion that holds it, of the first table's means.
SENTENCES = {
    "Language model: perplexity ×{curlora.ratio:.2f} with CURLoRA-{rank}, "
    "×{lora.ratio:.2f} with LoRA.": lambda curlora, lora, head: curlora.ratio < lora.ratio,
    "Earlier tasks: CURLoRA keeps them (forgetting {curlora.forgetting:+.2f}; "
    "LoRA {lora.forgetting:+.2f}).": lambda curlora, lora, head: curlora.forgetting < 0.03,
    "But it learns little beyond a head on the frozen model: accuracy {curlora.acc:.2f} "
    "against {head.acc:.2f}.": lambda curlora, lora, head: curlora.acc - head.acc < 0.05,
}


def show(frame):
    """Print the summary of a frame's runs, and the sentences where all of their runs are there."""
    finished = runs.summary(frame)
    if finished.empty:
        return
    names, console = sorted(finished.table.unique()), Console(width=100, highlight=False)
    cells = pd.concat({name: tables.summary(frame, name)[[*COLUMNS]] for name in names}, axis=1)
    seeds = ", ".join(map(str, sorted(frame.seed.unique())))
    shown = Table("", title=f"{frame.source.iloc[0]} data, seed {seeds}", title_justify="left")
    for name, column in cells:
        shown.add_column(f"Table {name[-1]}\n{COLUMNS[column]}", justify="right")
    for label, row in cells.fillna("").iterrows():
        shown.add_row(label, *(text.split(" ±")[0] for text in row))
    console.print(shown)
    first = finished[finished.table == names[0]].groupby("label").mean(numeric_only=True)
    for said in sentences(first.assign(ratio=np.exp(first.nats))):
        console.print(said)


def sentences(means):
    """`SENTENCES` with the numbers of the middle rank, marked where these runs contradict them."""
    ranks = sorted({int(label.split("-")[1]) for label in means.index if label.startswith("CUR")})
    rank = ranks[len(ranks) // 2] if ranks else None
    wanted = {"curlora": f"CURLoRA-{rank}", "lora": f"LoRA-{rank}", "head": "Head only"}
    if not set(wanted.values()) <= set(means.index):
        return []
    found = {name: means.loc[label] for name, label in wanted.items()}
    shown = {name: row.round(2) + 0.0 for name, row in found.items()}  # no minus before a zero
    return [
        ("" if holds(**found) else f"{CONTRADICTED}: ") + said.format(rank=rank, **shown)
        for said, holds in SENTENCES.items()
    ]
