"""All records of a profile as one tidy table: where tables, figures and notebooks start from.

Its columns. Of the run:

- `run`: name of the record's file in runs/, without .json
- `profile`: its name: sizes and rates (see `profiles`)
- `table`: table1 or table2
- `model`: smollm2-135m, …
- `method`: head-only, lora, curlora, …
- `rank`: of the adapter; missing for head-only
- `label`: method and rank, as tables show them
- `seed`: of head, adapter, dropout and, where shuffled, the order of rows
- `protocol`: published, corrected, or the nearer of the two and what differs
- `learning_rate`: nominal
- `head_rate`: of the heads, where it is another
- `precision`: of the frozen weights: fp32, tf32 or bf16
- `source`: of the data: embedded or paper
- `status`: finished, diverged or out of memory
- `parameters`: trained in the adapter
- `seconds`: of the whole run
- `device`: processor or GPU
- `commit`: of the code that computed the run; outside git, its release and the hash of its files
- `version`: of the numbers (`sequence.VERSION`)

Of the number:

- `stage`: how many tasks had been trained: 0 to 3
- `task`: mrpc, sst2, sentiment140, what else was scored beside them, or text
- `measure`: accuracy (share of rows), perplexity, norm (mean of ||update|| / ||W||), loss (nats,
  mean over the task's last epoch) or rate (the last step's learning rate)
- `value`: the number
- `n`: rows or tokens that it is of; projections, for a norm
- `majority`: of an accuracy: share of the most frequent class
- `answered`: of an accuracy: share of the most frequent answer
- `answers`: of an accuracy: the class answered to each row, a digit a row; missing in old ones
"""

import numpy as np
import pandas as pd

from .. import metrics
from . import fetch, records
from .protocol import Protocol
from .specs import RunSpec, method_label

# the same in a whole run
RUN = "run profile table model method rank label seed protocol learning_rate head_rate precision "
RUN = (RUN + "source status parameters seconds device commit version").split()
COLUMNS = (*RUN, "stage", "task", "measure", "value", "n", "majority", "answered", "answers")
BALANCED = "sentiment140, balanced"  # scored beside rows that are all negative


def frame(profile, results=None):
    """Every number of a profile's records: a row per run, stage and score (columns: see above).

    results: the folder of all results, if not the checkout's. An empty frame where there are none;
    ValueError for a file that is no whole record.
    """
    folder = records.runs_folder(profile, results)
    return tidy({path.stem: records.load(path) for path in sorted(folder.glob("*.json"))})


def of_grid(found):
    """The frame of some records, in their order (as `grids.run_grid` gives them)."""
    return tidy({RunSpec.from_dict(record.spec).key: record for record in found})


def tidy(found):
    """The frame of records by name."""
    rows = [run | row for name, record in found.items() for run in [_run(name, record)]
            for row in _numbers(record)]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).astype({"rank": "Int64", "n": "Int64"})


def _run(name, record):
    spec = record.spec
    plain = {**record.provenance, **spec, **vars(record), "run": name}
    run = {column: plain.get(column) for column in RUN}
    run |= {"model": spec["model"]["name"], "label": method_label(spec["method"], spec["rank"])}
    if record.provenance.get("dirty"):
        run["commit"] += " and changes"
    run["protocol"] = Protocol(**spec["protocol"]).name()
    return run | {"parameters": record.trainable.get("adapter", 0)}


def _numbers(record):
    """Rows of what a record holds; one without a number, where it holds none."""
    last, found = len(record.stages), []
    for when, stage in (("initial", 0), ("final", last)):
        if text := record.perplexity.get(when):
            found.append(_row(stage, "text", "perplexity", text["perplexity"], text["tokens"]))
    for i, (stage, of) in enumerate(zip(record.stages, record.spec["tasks"], strict=False), 1):
        for task, score in stage["scores"].items():
            row = _row(i, task, "accuracy", score["accuracy"], score["n"])
            answered = max(score["predicted"]) / score["n"]
            row |= {"majority": score["majority"], "answered": answered}
            found.append(row | {"answers": score.get("answers")})
        task, trained, norms = stage["task"], stage["training"], stage["norms"].values()
        if norms:
            found.append(_row(i, task, "norm", sum(norms) / len(norms), len(norms)))
        ending = trained["losses"][-(len(trained["losses"]) // of["epochs"]) :]
        found.append(_row(i, task, "loss", sum(ending) / len(ending), len(ending)))
        found.append(_row(i, task, "rate", trained["last_rate"], trained["steps"]))
    return found or [_row(0, None, None, None, None)]


def _row(stage, task, measure, value, n):
    return {"stage": stage, "task": task, "measure": measure, "value": value, "n": n}


MEASURES = {"just_learned": metrics.plasticity, "acc": metrics.average_accuracy}
MEASURES |= {"forgetting": metrics.forgetting, "bwt": metrics.backward_transfer}
MEASURES |= dict.fromkeys(("before", "after", "norm"))  # of the text and of the update


def summary(runs):
    """One row a finished run of a frame: what a table of results compares.

    `just_learned` (accuracy of each task right after its own stage), `acc` (of all at the end),
    `forgetting`, `bwt` (see `metrics`): means over tasks. Sentiment140 counts by its balanced rows
    where those were scored. `before`, `after` (perplexity), `ratio` (after / before) and `nats`
    (its logarithm: nats a token lost). `norm`: ||update|| / ||W|| at the end. Beside them the run's
    own columns.
    """
    rows = []
    for _, run in runs[runs.status == "finished"].groupby("run", sort=False):
        R = score_matrix(run)
        text = run[run.measure == "perplexity"].sort_values("stage").value
        norm = run[run.measure == "norm"].sort_values("stage").value
        found = [metric(R) for metric in MEASURES.values() if metric]
        found += [text.iloc[0], text.iloc[-1], norm.iloc[-1] if len(norm) else 0.0]
        rows.append([*run.iloc[0][RUN], *found])
    found = pd.DataFrame(rows, columns=[*RUN, *MEASURES])
    return found.assign(ratio=found.after / found.before, nats=np.log(found.after / found.before))


def score_matrix(run):
    """R of one run's rows of a frame: R[i][j], the accuracy on task j after stage i, for j <= i."""
    scores = run[run.measure == "accuracy"].set_index(["stage", "task"]).value
    tasks = run[run.measure == "loss"].sort_values("stage").task.tolist()

    def accuracy(stage, task):
        beside = (stage, BALANCED) if task == "sentiment140" else None
        return scores[beside] if beside in scores.index else scores[stage, task]

    return [[accuracy(i, task) for task in tasks[:i]] for i in range(1, len(tasks) + 1)]


def write_csv(profile, results=None):
    """`runs.csv` beside the profile's records, but for the answers; returns its path."""
    path = records.runs_folder(profile, results).parent / "runs.csv"
    with fetch.aside(path) as part:
        frame(profile, results).drop(columns="answers").to_csv(part, index=False)
    return path


def majority(run):
    """Accuracy of always answering the largest class: the mean over one run's tasks."""
    return float(np.mean(score_matrix(run.assign(value=run.majority))[-1]))
