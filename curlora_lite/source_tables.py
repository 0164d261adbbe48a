"""Tables of what stands behind the results: parameter counts, the stand-in, provenance."""

from . import fetch, paper
from .adapters import CURLoRAConfig, LoRAConfig, add_adapters, count_trainable
from .models import meta_model
from .profiles import method_label
from .tables import Table

DIGITS = 16  # of a sha256, in a table


def parameters_table():
    """§4.5: the paper's parameter counts beside counts taken from the real shapes.

    Ours are counted on the meta device: models of the real configurations, adapters added, the
    parameters that receive gradients summed. Source: §4.5 and the author's stored outputs.
    """
    rows = []
    for name in ("Mistral-7B-v0.3", "GPT-2 Large"):
        counts = {("full", None): count_trainable(meta_model(name)[0])}
        for rank in paper.RANKS:
            counts |= {(m, rank): count for m, count in counted(name, rank).items()}
        for (method, rank), count in counts.items():
            said, source = paper.PARAMETERS.get((name, method, rank), (None, ""))
            label = "all weights" if method == "full" else method_label(method, rank)
            share = "1" if method == "full" else f"{count / counts['full', None]:.1e}"
            published = "" if said is None else f"{said:,}"
            rows.append((f"{name}, {label}", f"{count:,}", share, published, source))
    return Table(
        "Trainable parameters: counted on the real shapes, and as published",
        ("", "Counted", "Share of all", "Published", "Source"),
        tuple(rows),
        (
            "Counted on the meta device: no weights are needed. Heads are not included.",
            "An empty cell under Published: the paper gives no figure.",
        ),
        left=(0, 4),
    )


def counted(name, rank):
    """Trainable parameters of LoRA and CURLoRA on one of the paper's models: method -> count."""
    counts = {}
    for method, config in (("lora", LoRAConfig), ("curlora", CURLoRAConfig)):
        model, targets = meta_model(name)
        add_adapters(model, config(rank=rank, target_modules=targets))
        counts[method] = count_trainable(model)
    return counts


def stand_in_table(report):
    """How good a language model Table 2's stand-in is: `models.stand_in_report()` as a Table."""
    rows = (
        ("small GPT-2", f"{report['perplexity']:,.1f}", f"{report['parameters']:,}"),
        ("unigram frequencies", f"{report['unigram_perplexity']:,.1f}", ""),
    )
    return Table(
        "Table 2's stand-in on held-out editorials",
        ("", "Perplexity per token", "Parameters"),
        rows,
        (
            f"{report['held_out_tokens']:,} held-out tokens of its own BPE; trained on "
            f"{report['training_tokens']:,} other tokens for {report['epochs']:.1f} epochs.",
            "The unigram model answers each token's frequency in the training text.",
        ),
    )


def provenance_table(records):
    """Which code, machine, data and model the records come from: one row per kind of value."""
    first = records[0]
    gathered = {
        "runs": {f"{len(records)}; {_hours(records)} summed over runs, some side by side"},
        "dates": {r.provenance["date"] for r in records},
        "commit": {str(r.provenance["commit"]) for r in records},
        "code changed since that commit": {_yes_or_no(r.provenance["dirty"]) for r in records},
        "machine": {r.provenance["device"] for r in records},
        "threads of a run": {str(r.provenance["threads"]) for r in records},
        "platform": {r.provenance["platform"] for r in records},
        "python": {r.provenance["python"] for r in records},
        **{k: {r.provenance["packages"][k] for r in records} for k in first.provenance["packages"]},
        "precision": {f"{r.spec['model']['name']}: {r.spec['precision']}" for r in records},
        "model": {_model_origin(r) for r in records},
        "data": {_origin(o) for r in records for o in r.sources["data"]},
        "model sha256": {f"{r.spec['model']['name']} {r.model_sha256[:DIGITS]}" for r in records},
    }
    if any("code" in r.provenance for r in records):
        gathered["numerical code"] = {r.provenance.get("code", "not recorded") for r in records}
    for record in records:
        for task, parts in record.data.items():
            for part, digest in parts.items():
                key = f"{record.spec['table']}, {task}, {part}: sha256"
                gathered.setdefault(key, set()).add(digest[:DIGITS])
    rows = tuple((key, "; ".join(sorted(values))) for key, values in gathered.items())
    note = f"Of each sha256 the first {DIGITS} digits; the records hold them whole."
    return Table("Provenance of the records", ("", "Value"), rows, (note,), left=(0, 1))


def _hours(records):
    return f"{sum(r.seconds for r in records) / 3600:.2f} hours"


def _yes_or_no(value):
    return {True: "yes", False: "no"}.get(value, "not known")


def _model_origin(record):
    name, origin = record.spec["model"]["name"], record.sources["model"]
    if origin["source"] != "embedded":
        return f"{name}: {_origin(origin)}"
    if name in fetch.ARTIFACTS:
        return f"{name}: PyPI, {fetch.ARTIFACTS[name].requirement}"
    return f"{name}: trained by small_gpt2.py"


def _origin(origin):
    """Where data or a model came from, in words."""
    if origin["source"] == "embedded":
        return f"PyPI, {fetch.ARTIFACTS['icwsm2014'].requirement}"
    if origin["revision"] is None:
        return f"{origin['repository']}, {origin['source']} (content checked by sha256)"
    return f"{origin['repository']}, {origin['source']}, revision {origin['revision']}"
