"""Executing notebooks through papermill, each once for the same inputs; all of them on one page."""

import hashlib
import json
import sys

import nbformat

from . import fetch, profiles, records

TABLES = {"table1": "table1_mistral", "table2": "table2_gpt2"}
STEPS = ("00_quickstart", "01_cur_layer", "02_one_run", "finetune_causal_lm")
WIDGET = "application/vnd.jupyter.widget-view+json"
PARAMETERS = ("profile", "ranks", "seeds", "methods", "protocol", "precision", "checkpointing")


def of_profile(profile, steps=False):
    """Names of the notebooks that a profile executes, in their order: those of its tables.

    steps: before them, where its data are the embedded ones, those that show how it is done.
    """
    chosen = profiles.profile_named(profile)
    first = STEPS if steps and chosen.source == "embedded" else ()
    if profile != "embedded":  # QUICK does without fine-tuning
        first = first[:-1]
    return [*first, *(TABLES[table] for table in chosen.tables)]


def execute(name, parameters, target, anew=False, source=None):
    """Execute a notebook through papermill unless its executed copy is of the same inputs.

    parameters: those that the notebook does not have are left out if they are among the grid's
    (`PARAMETERS`), else refused with ValueError.
    anew: execute it in any case, as where what it writes may have been deleted. source: of the
    notebook, if it is not in the checkout's folder.
    Returns why it was executed, or nothing if it was not. The executed copy appears only when all
    cells have run; it knows which tables and figures they wrote, and is due again without these.
    """
    import papermill

    source = source or records.ROOT / "notebooks" / f"{name}.ipynb"
    known = papermill.inspect_notebook(str(source))
    if unknown := [key for key in parameters if key not in (*known, *PARAMETERS)]:
        said = f"{name} has no such one; it has {', '.join(known)}"
        raise ValueError(f"notebook parameter {unknown[0]!r}: {said}")
    passed = {key: value for key, value in parameters.items() if key in known}
    inputs = _inputs(source, passed, parameters.get("profile", "embedded"))
    why = "asked for" if anew else _due(target, inputs)
    if not why:
        return None
    before, how = _written(target), _kernel()
    how |= {"cwd": str(records.ROOT), "progress_bar": {"desc": name, "leave": False}}
    with fetch.aside(target) as part:
        papermill.execute_notebook(str(source), str(part), parameters=passed, **how)
        book = nbformat.read(part, 4)
        _tidy(book, inputs)
        book.metadata["outputs"] = sorted(name for name, _ in _written(target) - before)
        nbformat.write(book, part)
    return why


def _due(target, inputs):
    """Why a notebook is to be executed; None where its copy is of these inputs and whole."""
    try:
        made = nbformat.read(target, 4).metadata
        if made["inputs"] != inputs:
            return "what it shows has changed"
        gone = [name for name in made["outputs"] if not (target.parents[1] / name).exists()]
    except (OSError, ValueError, KeyError, AttributeError):
        return f"there was no whole {target.name}"
    return f"there was no {', '.join(gone)}" if gone else None


def _written(target):
    """(name, when written) of the tables and figures beside the folder of an executed notebook."""
    folder = target.parents[1]
    there = (*folder.glob("tables/[!.]*"), *folder.glob("figures/[!.]*"))
    return {(path.relative_to(folder).as_posix(), path.stat().st_mtime_ns) for path in there}


class KernelError(RuntimeError):
    """No notebook can be executed here."""


def check():
    """Start and end a kernel, so that what keeps one from it is known before the runs.

    KernelError, with the reason, where none starts or it is another interpreter's.
    """
    import nbclient

    cell = nbformat.v4.new_code_cell(f"import sys\nassert sys.executable == {sys.executable!r}")
    try:
        nbclient.execute(nbformat.v4.new_notebook(cells=[cell]), **_kernel())
    except (RuntimeError, nbclient.exceptions.CellExecutionError) as error:
        raise KernelError(str(error)) from error


def _kernel():
    """What starts the interpreter that runs here as the kernel.

    Where JUPYTER_PATH or the user's folder has a kernel of this name, it may be another's.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        kernel_spec_manager = KernelSpecManager(kernel_dirs=[])  # ipykernel's own is left

    return {"kernel_name": "python3", "kernel_manager_class": ThisPython}


def _tidy(book, inputs):
    """Take papermill's times and paths out, so that an executed copy changes with its content."""
    book.metadata.pop("papermill", None)
    book.metadata["inputs"] = inputs
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "outputs" in cell:  # progress bars
            text = [out for out in cell.outputs if out.get("name") != "stderr"]
            cell.outputs = [out for out in text if WIDGET not in out.get("data", {})]


def _inputs(source, parameters, profile):
    """A hash of all that an executed notebook shows: source, parameters, package and records.

    The audit shows those on the paper's data beside its own, and what the checkout has of them.
    """
    names = [profile, *["smollm2"] * (source.stem == "audit")]
    found = [path for name in names for path in sorted(records.runs_folder(name).glob("*.json"))]
    for pattern in ["smollm2*/runs/*.json", "*/labels.json"] * (source.stem == "audit"):
        found += sorted((records.ROOT / "results").glob(pattern))
    found = dict.fromkeys(found)  # mostly both folders are one
    shown = [parameters, records.workspace(), records.code_sha256()]
    digest = hashlib.sha256(json.dumps(shown).encode())
    for path in [source, *found]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def one_page(paths, target):
    """Executed notebooks as one HTML page, figures inside.

    CannotWriteError where the folder of `target` is full or read-only.
    """
    from nbconvert import HTMLExporter

    books = [nbformat.read(path, 4) for path in paths]
    whole = books[0]
    whole.cells = [cell for book in books for cell in book.cells]
    for i, cell in enumerate(whole.cells):
        cell["id"] = f"cell-{i}"
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    # formulas stay readable as TeX where there is no network
    exporter.mathjax_url = ""
    exporter.require_js_url = ""
    page, _ = exporter.from_notebook_node(whole, {"metadata": {"name": "curlora_lite report"}})
    fetch.write(target, page)
