"""What `make reproduce` says at its end: one table that fits a terminal, and three sentences."""

from rich.console import Console
from rich.table import Table

from . import runs
from .conclusions import CONTRADICTED

WIDTH = 100
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
    console, means = Console(width=WIDTH, highlight=False), _means(frame)
    table = Table(title=_title(frame), title_justify="left", min_width=60)
    table.add_column("")
    for name in means:
        for column in ("accuracy", "forgetting", "perplexity ×"):
            table.add_column(f"Table {name[-1]}\n{column}", justify="right")
    labels = list(dict.fromkeys(label for found in means.values() for label in found.index))
    for label in labels:
        cells = [_cells(found, label) for found in means.values()]
        table.add_row(label, *(cell for three in cells for cell in three))
    majority = [[f"{_majority(frame, name):.2f}", "", ""] for name in means]
    table.add_row("Majority class", *(cell for three in majority for cell in three))
    console.print(table)
    for said in sentences(next(iter(means.values()))):
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


def _means(frame):
    """table -> means over seeds of each method and rank."""
    found = {}
    for name, part in frame.groupby("table"):
        if (part.status == "finished").any():
            columns = ["acc", "forgetting", "ratio"]
            found[name] = runs.summary(part).groupby("label", sort=False)[columns].mean()
    return found


def _title(frame):
    models = ", ".join(frame.model.unique())
    seeds = ", ".join(map(str, sorted(frame.seed.unique())))
    return f"{models}; {frame.source.iloc[0]} data; seed {seeds}"


def _cells(means, label):
    if label not in means.index:
        return ["", "", ""]
    row = means.loc[label]
    return [f"{row.acc:.2f}", f"{row.forgetting:+.2f}", f"{row.ratio:.2f}"]


def _majority(frame, name):
    """Accuracy of always answering the largest class, mean over the tasks as they are counted."""
    part = frame[(frame.table == name) & (frame.measure == "accuracy")]
    share = part.groupby("task").majority.first()
    if runs.BALANCED in share:
        share["sentiment140"] = share[runs.BALANCED]
    return share[[task for task in share.index if "," not in task]].mean()
