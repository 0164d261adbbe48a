"""The commands behind the Makefile: `python -m curlora_lite.replication reproduce|audit|…`."""

import os
import sys
import time
import traceback

from . import environment, notebooks, pages, records
from .options import parser


# What reads the user's settings when imported, as `datasets` does, is imported in the commands:
# `environment.settle` comes before.
def main(arguments=None):
    """Parse the command line and run it; returns the exit status."""
    sys.stdout.reconfigure(errors="replace")  # of a terminal without UTF-8
    options = parser(__doc__, {run.__name__: run for run in COMMANDS}).parse_args(arguments)
    environment.quiet()
    try:
        if options.run is not doctor:
            _need_checkout()
            environment.settle()
        options.run(options)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # what a run, a notebook or its kernel that fails raises
        if type(error).__name__ not in FAILURES:
            raise
        if error.__cause__:  # of a run: where in it
            traceback.print_exception(error.__cause__)
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _need_checkout():
    if not (records.ROOT / "notebooks").is_dir():
        raise ValueError(
            "this command needs a checkout of the repository, with its notebooks and results, and "
            f"{records.ROOT} is none; of what is installed the library works: `import curlora_lite`"
        )


def reproduce(options):
    """Compute what is missing of the profile's tables, execute the notebooks, say what came out.

    tables: compute nothing; tables and figures anew from the records there are, whoever's.
    """
    from . import grids, profiles, runs, tables

    profile, chosen = _profile(options), _chosen(options)
    planned = profiles.profile_named(profile).tables
    if profile.startswith("audit"):
        raise ValueError(f"PROFILE: {profile} holds the audit's runs; `make audit` computes them")
    specs = [spec for table in planned for spec in grids.plan(profile, table, **chosen)]
    folder = records.outputs(profile, **chosen)
    if options.tables:
        found = [records.find(spec) for spec in specs]
        absent = [spec.key for spec, run in zip(specs, found, strict=True) if run is None]
        if absent:
            raise ValueError(
                f"TABLES: {len(absent)} of {len(specs)} runs have no record in "
                f"{specs[0].precision} ({', '.join(absent)}); PRECISION asks for another"
            )
    else:
        found = _computed(specs, options, folder)
    _execute(notebooks.of_profile(profile), {"profile": profile, **chosen}, folder, options.tables)
    frame = runs.of_grid(found)
    for table in planned:
        summary = tables.summary(frame, table)
        print(tables.markdown(summary, f"Table {table[-1]}, {profile} profile"))
    lost = [run for run in found if run.status not in records.RESULTS]
    if lost:
        said = "; ".join(f"{run.spec['method']}-{run.spec['rank']}: {run.message}" for run in lost)
        raise ValueError(f"{len(lost)} of {len(found)} runs gave no result: {said}")


def audit(options):
    """Compute what is missing of the audit's runs, execute its notebook, say where it all is.

    On the paper's data, where they take days: what nobody has computed, and no notebook.
    """
    from . import cells, machine

    profile, seeds = _profile(options), options.seeds
    chosen, own, found = cells.chosen(profile, options.cells), profile != "smollm2", []
    folder = records.outputs(profile, seeds=seeds)
    for stage in range(3):  # the records of one give the next their rates
        some = [cell for cell in chosen if cells.stage(cell) == stage]
        if specs := cells.grid(profile, some, seeds=seeds, fast=machine.fast_precision()):
            found += _computed(specs, options, folder, own or "anybody")
    if not found:
        raise ValueError(f"SEEDS: got {seeds}, and no cell that was chosen has one of them")
    if own and not options.cells:
        _execute(["audit"], {"profile": profile, "seeds": seeds}, folder)


def _computed(specs, options, folder, own=True):
    """The records of all specs; what this checkout (or anybody) has not computed comes first.

    folder: where tables, figures and notebooks will be; that they can be is seen before.
    """
    from . import cells, doctor, grids, machine, runs
    from . import fetch as files

    submit, start, hashes = _submission(options, own), time.perf_counter(), {}
    for name in ("tables", "figures", "notebooks"):
        files.need(folder / name)
    fetch(options)
    missing = [spec for spec in specs if grids.reusable(spec, own=own, known=hashes) is None]
    if missing:
        notebooks.check()
        if own == "anybody" and options.executor == "local":
            cells.check_machine(missing)
        about = doctor.duration(doctor.takes(missing, machine.default_device())[1])
        print(f"{len(missing)} of {len(specs)} runs to compute, roughly {about}", flush=True)
    submit(specs)
    found = grids.run_grid(specs, own=own, workers=options.workers)
    runs.write_csv(specs[0].profile)
    took = time.perf_counter() - start
    print(f"{len(missing)} runs computed in {took / 60:.1f} minutes, the others were there")
    return found


def _execute(books, parameters, folder, anew=False):
    """Execute notebooks that are not up to date, fill the folder's page, say where it all is."""
    for name in books:
        target = folder / "notebooks" / f"{name}.ipynb"
        if why := notebooks.execute(name, parameters, target, anew=anew):
            print(f"{name} executed: {why}")
    pages.fill(folder / "README.md")
    print(f"tables, figures, notebooks and numbers: {os.path.relpath(folder)}/")


def _submission(options, own):
    """A function that has the missing ones of some specs computed where EXECUTOR says.

    It does nothing for `local`: what is missing is then computed here. ValueError for settings of
    a cluster without one, or where no job can be submitted.
    """
    names = ("gpus", "memory", "minutes", "partition")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.executor == "local":
        if given:
            raise ValueError(f"{next(iter(given)).upper()}: is of EXECUTOR=slurm, which is not set")
        return lambda specs: None
    from . import cluster

    cluster.checked()
    return lambda specs: cluster.run_grid(specs, own=own, at_once=options.workers, **given)


def _chosen(options):
    return {name: getattr(options, name) for name in notebooks.PARAMETERS if name != "profile"}


def _profile(options):
    return options.profile + ("-quick" if options.quick else "")


def fetch(options):
    """Get, check and prepare what a profile needs."""
    from . import fetch as files
    from . import hub, models, profiles

    profile = profiles.profile_named(options.profile)
    if profile.source == "embedded":
        files.fetch("icwsm2014")
    else:
        for repository in hub.DATASETS:
            hub.folder(repository)
    for plan in profile.tables.values():
        models.prepare(plan.model.name)


def doctor(_):
    """What this machine has, and which profiles it can run."""
    from . import doctor as examine

    print(examine.report())


def bench(options):
    """Measure ours beside its alternatives, in the notebook; tables: from what was measured."""
    given = {"quick": options.quick, "measure": not options.tables}
    folder = records.outputs("benchmarks-quick" if options.quick else "benchmarks")
    _execute(["benchmark"], given, folder, anew=True)


def report(options):
    """One HTML page of the executed notebooks, figures inside: the tables first."""
    profile, chosen = _profile(options), _chosen(options)
    books, folder = notebooks.of_profile(profile, steps=True), records.outputs(profile, **chosen)
    _execute(books, {"profile": profile, **chosen}, folder)
    books = sorted(books, key=lambda name: name in notebooks.STEPS)
    paths = [folder / "notebooks" / f"{name}.ipynb" for name in books]
    notebooks.one_page(paths, folder / "report.html")
    print(f"report: {os.path.relpath(folder / 'report.html')}")


def verify(options):
    """Compute some of a profile's records again and compare every number."""
    from . import fetch as files
    from . import verify as examine

    files.need(folder := records.results_folder() / "reliability")
    kept = examine.chosen(_profile(options), options.keys, options.share)
    fetch(options)
    found = examine.verify(kept)
    print(examine.save(_profile(options), found, folder))
    broken = found[found.holds == examine.BROKEN].record.tolist()
    if broken:
        raise ValueError(f"{len(broken)} of {len(found)} records do not hold: {broken}")


def readme(_):
    """Put tables between the marks of the READMEs, so that no number there is typed."""
    for path in (records.ROOT / "README.md", *records.results_folder().glob("*/README.md")):
        pages.fill(path)


FAILURES = ("RunFailedError", "PapermillExecutionError", "KernelError")
COMMANDS = (reproduce, audit, fetch, doctor, report, readme, bench, verify)

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main())
