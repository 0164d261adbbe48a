"""The commands behind the Makefile: `python -m curlora_lite.replication reproduce|audit|…`."""

import logging
import sys
import time
import warnings

from ..checks import known
from . import notebooks, pages, records
from .options import parser


def main(arguments=None):
    """Parse the command line and run it; returns the exit status."""
    options = parser(__doc__, COMMANDS).parse_args(arguments)
    warnings.filterwarnings("ignore")
    try:
        _need_checkout(options)
        options.run(options)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except _failures() as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _need_checkout(options):
    if options.run is not doctor and not (records.ROOT / "notebooks").is_dir():
        raise ValueError(
            "this command needs a checkout of the repository, with its notebooks and results, and "
            f"{records.ROOT} is none; of what is installed the library works: `import curlora_lite`"
        )


def _failures():
    """What a run or a notebook that fails raises; imported only when something has failed."""
    from papermill import PapermillExecutionError

    from .grids import RunFailedError

    return RunFailedError, PapermillExecutionError


def reproduce(options):
    """Compute what is missing of the profile's tables, execute the notebooks, say what came out.

    tables: compute nothing; tables and figures anew from the records there are, whoever's.
    """
    from . import grids, profiles, runs, verdict

    start = time.perf_counter()
    submit = _submission(options)
    profile = options.profile = _profile(options)
    chosen = _chosen(options)
    tables = profiles.profile_named(profile).tables
    if any(plan.conditions for plan in tables.values()):
        raise ValueError(f"PROFILE: {profile} holds the audit's runs; `make audit` computes them")
    for method in options.methods or ():  # the audit has others, the tables and figures not
        known("methods", method, profiles.METHODS)
    for table in tables:  # each choice of runs is checked before anything is fetched
        profiles.grid(profile, table, **chosen)
    _quiet()
    specs = [spec for table in tables for spec in grids.plan(profile, table, **chosen)]
    books = notebooks.of_profile(profile)
    if options.tables:
        absent = [spec.key for spec in specs if records.find(spec) is None]
        if absent:
            raise ValueError(
                f"TABLES: {len(absent)} of {len(specs)} runs have no record in "
                f"{specs[0].precision} ({', '.join(absent)}); PRECISION asks for another"
            )
        books = [name for name in books if name in notebooks.TABLES.values()]
        found, computed = [records.find(spec) for spec in specs], 0
    else:
        fetch_all(options)
        found, computed = _computed(specs, submit, options)
    failed = [run for run in found if run.status not in records.RESULTS]
    folder = records.outputs(profile, **chosen)
    executed = _execute(books, {"profile": profile, **chosen}, folder, anew=options.tables)
    page = records.ROOT / "results" / profile / "README.md"
    pages.fill(page)
    verdict.show(runs.of_grid(found))
    print(f"tables, figures, notebooks and records: {folder.relative_to(records.ROOT)}/")
    print(
        f"{computed} runs computed and {executed} of {len(books)} notebooks executed "
        f"in {_duration(time.perf_counter() - start)}; the rest was there already"
    )
    if failed:
        lost = [f"{run.spec['method']}-{run.spec['rank']}: {run.message}" for run in failed]
        raise ValueError(f"{len(lost)} of {len(found)} runs gave no result: {'; '.join(lost)}")


def audit(options):
    """Compute what is missing of the audit's runs, execute its notebook, say where it all is."""
    from . import doctor, grids, machine, profiles

    start = time.perf_counter()
    submit = _submission(options)
    profile = options.profile = _profile(options)
    tables = profiles.profile_named(profile).tables
    _quiet()
    specs = [s for t in tables for s in grids.plan(profile, t, seeds=options.seeds)]
    fetch_all(options)
    known_hashes = {}
    missing = [s for s in specs if grids.reusable(s, own=True, known=known_hashes) is None]
    seconds = sum(spec.cost() for spec in missing) * doctor.SECONDS[machine.default_device()]
    print(
        f"{len(missing)} of {len(specs)} runs to compute: {doctor.duration(seconds)} here, roughly"
    )
    _computed(specs, submit, options)
    folder = records.outputs(profile, seeds=options.seeds)
    _execute(["audit"], {"profile": profile, "seeds": options.seeds}, folder)
    print(f"notebook, tables, figures and records: {folder.relative_to(records.ROOT)}/")
    print(f"{len(missing)} runs computed in {_duration(time.perf_counter() - start)}")


def _computed(specs, submit, options):
    """(the records of all specs, how many of them had to be computed)."""
    from . import grids, runs

    hashes = {}
    missing = [spec for spec in specs if grids.reusable(spec, own=True, known=hashes) is None]
    submit(specs)
    found = grids.run_grid(specs, own=True, workers=options.workers)
    runs.write_csv(options.profile)
    return found, len(missing)


def _execute(books, parameters, folder, anew=False):
    """Execute notebooks into a folder of results; returns how many were not up to date."""
    targets = {name: folder / "notebooks" / f"{name}.ipynb" for name in books}
    return sum(
        notebooks.execute(name, parameters, target=target, anew=anew)
        for name, target in targets.items()
    )


def _submission(options):
    """A function that has the missing ones of some specs computed where EXECUTOR says.

    It does nothing for `local`: what is missing is then computed here. ValueError for settings of
    a cluster without one, or where no job can be submitted.
    """
    names = {"gpus": "gpus", "memory": "memory_gb", "minutes": "minutes", "partition": "partition"}
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.executor == "local":
        if given:
            raise ValueError(f"{next(iter(given)).upper()}: is of EXECUTOR=slurm, which is not set")
        return lambda specs: None
    from . import cluster

    cluster.checked()
    given = {names[name]: value for name, value in given.items()}
    return lambda specs: cluster.run_grid(specs, own=True, at_once=options.workers, **given)


def _chosen(options):
    return {name: getattr(options, name) for name in notebooks.PARAMETERS if name != "profile"}


def _profile(options):
    return options.profile + ("-quick" if options.quick else "")


def fetch_all(options):
    """Get, check and prepare what a profile needs."""
    from . import fetch, hub, models, profiles

    _quiet()
    profile = profiles.profile_named(options.profile)
    if profile.source == "embedded":
        fetch.fetch("icwsm2014")
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
    _quiet()
    name = "benchmarks-quick" if options.quick else "benchmarks"
    folder = records.ROOT / "results" / name
    given = {"quick": options.quick, "measure": not options.tables}
    _execute(["benchmark"], given, folder, anew=True)
    pages.fill(folder / "README.md")
    print(f"tables, figures and raw times: {folder.relative_to(records.ROOT)}/")


def report(options):
    """One HTML page of the executed notebooks, figures inside."""
    folder = records.outputs(_profile(options), **_chosen(options))
    named = notebooks.of_profile(_profile(options))
    paths = [folder / "notebooks" / f"{name}.ipynb" for name in reversed(named)]
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise ValueError(f"no executed notebook {absent[0]}: run `make reproduce` first")
    notebooks.one_page(paths, folder / "report.html")
    print(f"report: {(folder / 'report.html').relative_to(records.ROOT)}")


def verify(options):
    """Compute some of a profile's records again and compare every number."""
    from . import verify as examine

    profile = options.profile = _profile(options)
    kept = examine.chosen(profile, options.keys, options.share)
    _quiet()
    fetch_all(options)
    compared = examine.verify(kept)
    print(examine.save(profile, compared))
    broken = [one.key for one in compared if one.held == examine.BROKEN]
    if broken:
        raise ValueError(f"{len(broken)} of {len(compared)} records do not hold: {broken}")


def readme(_):
    """Put tables between the marks of the READMEs, so that no number there is typed."""
    for path in (records.ROOT / "README.md", *(records.ROOT / "results").glob("*/README.md")):
        pages.fill(path)


def _quiet():
    """Keep the libraries' own progress bars and advice out of ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("papermill").setLevel(logging.ERROR)


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


COMMANDS = {
    "reproduce": reproduce,
    "audit": audit,
    "fetch": fetch_all,
    "doctor": doctor,
    "report": report,
    "readme": readme,
    "bench": bench,
    "verify": verify,
}

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main())
