"""The appendix of `make report`: what the reproducibility checklists ask, answered from records."""

from . import fetch, hub, paper
from .protocol import Protocol
from .tables import MODEL_LABELS, Table, mixed_code

REPOSITORIES = {r.name: r for r in (*hub.DATASETS, *hub.MODELS.values())}


def appendix(runs, command):
    """The items of the NeurIPS paper checklist and the ML Reproducibility Challenge that apply.

    runs: RunRecords of a report. command: what makes them again. ValueError if there are none.
    Source: the two checklists' items, in our words; every answer is taken from the records.
    """
    if not runs:
        raise ValueError("runs: got none, expected those of at least one table")
    rows = (
        ("Runs", _runs(runs)),
        ("Seeds", _listed({r.spec["seed"] for r in runs})),
        ("What stands behind ±", _spread(runs)),
        ("Models and their licences", _listed({_model(r) for r in runs})),
        ("Data and their licences", _listed({_data(o) for r in runs for o in r.sources["data"]})),
        ("Evaluation rows", _listed({_rows(r) for r in runs if r.stages})),
        ("Learning rate, batch, epochs", _listed({_training(r) for r in runs})),
        ("Protocol", _listed({Protocol(**r.spec["protocol"]).name() for r in runs}, "; ")),
        ("Compute", _compute(runs)),
        ("Hardware", _listed({_machine(r) for r in runs})),
        ("Software", _listed({_software(r) for r in runs}, "; ")),
        ("Code", _listed({_code(r) for r in runs}, "; ")),
        ("To make it again", f"`{command}`"),
        ("Compared with", f"arXiv 2408.14572, {_listed({paper.MODELS[_table(r)] for r in runs})}"),
    )
    note = "Filled in from the records of this report; no answer is typed."
    return Table("Reproducibility", ("", ""), rows, (note, *mixed_code(runs)), left=(0, 1))


def _listed(values, between=", "):
    return between.join(sorted(map(str, values)))


def _table(run):
    return run.spec["table"]


def _runs(runs):
    ends = {status: sum(r.status == status for r in runs) for status in {r.status for r in runs}}
    return f"{len(runs)}: " + _listed(f"{count} {status}" for status, count in ends.items())


def _spread(runs):
    if len({r.spec["seed"] for r in runs}) > 1:
        return "sample standard deviation over seeds"
    return "one seed: 95 % intervals for the choice of evaluation rows alone"


def _model(run):
    name, origin = run.spec["model"]["name"], run.sources["model"]
    if origin["source"] != "embedded":
        return f"{MODEL_LABELS[name]} ({REPOSITORIES[origin['repository']].licence})"
    if name in fetch.ARTIFACTS:
        return f"{MODEL_LABELS[name]} ({fetch.ARTIFACTS[name].licence})"
    return f"{MODEL_LABELS[name]} (trained here, on the data below)"


def _data(origin):
    if origin["source"] == "embedded":
        corpus = fetch.ARTIFACTS["icwsm2014"]
        return f"ICWSM 2014 texts in {corpus.requirement} ({corpus.licence})"
    return f"{origin['repository']} ({REPOSITORIES[origin['repository']].licence})"


def _rows(run):
    sizes = {name: s["n"] for stage in run.stages for name, s in stage["scores"].items()}
    return f"{_table(run)}: {_listed(f'{name} {n:,}' for name, n in sizes.items())}"


def _training(run):
    epochs = "/".join(str(task["epochs"]) for task in run.spec["tasks"])
    return f"{_table(run)}: {run.spec['learning_rate']:g}, {run.spec['batch']}, {epochs}"


def _compute(runs):
    hours, longest = sum(r.seconds for r in runs) / 3600, max(r.seconds for r in runs) / 60
    return f"{hours:.2f} hours summed over runs, the longest {longest:.0f} minutes"


def _machine(run):
    p = run.provenance
    return f"{p['device']} ({p['platform']}), {p['cores']} cores, threads a run: {p['threads']}"


def _software(run):
    versions = {"python": run.provenance["python"], **run.provenance["packages"]}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _code(run):
    p = run.provenance
    changed = " with changes" if p["dirty"] else ""
    return f"commit {p['commit']}{changed}, numerical code {p.get('code', 'not recorded')}"
