"""The command line behind the Makefile: `python -m curlora_lite reproduce|fetch|doctor|…`."""

import argparse
import logging
import sys
import time
import warnings

from ..checks import known
from . import notebooks, pages, provenance, records
from .options import parser


def main(arguments=None):
    """Parse the command line and run it; returns the exit status."""
    options = parser(__doc__, COMMANDS).parse_args(arguments)
    warnings.filterwarnings("ignore")
    try:
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


def _failures():
    """What a run or a notebook that fails raises; imported only when something has failed."""
    from papermill import PapermillExecutionError

    from .grids import RunFailedError

    return RunFailedError, PapermillExecutionError


def reproduce(options):
    """Compute what is missing of the profile's tables, execute the notebooks, print the tables.

    tables: compute nothing; tables and figures anew from the records there are, whoever's.
    """
    from . import grids, profiles

    start = time.perf_counter()
    submit = _submission(options)
    profile = options.profile = _profile(options)
    chosen = _chosen(options)
    tables = profiles.profile_named(profile).tables
    for method in options.methods or ():  # the audit has others, the tables and figures not
        known("methods", method, profiles.METHODS)
    for table in tables:  # each choice of runs is checked before anything is fetched
        profiles.grid(profile, table, **chosen)
    _quiet()
    specs = [spec for table in tables for spec in grids.plan(profile, table, **chosen)]
    computed, runs, books = 0, [], notebooks.of_profile(profile)
    if options.tables:
        absent = [spec.key for spec in specs if records.find(spec) is None]
        if absent:
            raise ValueError(
                f"TABLES: {len(absent)} of {len(specs)} runs have no record in "
                f"{specs[0].precision} ({', '.join(absent)}); PRECISION asks for another"
            )
        books = [name for name in books if name in (*notebooks.TABLES.values(), "report")]
    else:
        fetch_all(options)
        hashes = {}
        computed = sum(grids.reusable(spec, own=True, known=hashes) is None for spec in specs)
        submit(specs)
        runs = grids.run_grid(specs, own=True, workers=options.workers)
    failed = [run for run in runs if run.status not in records.RESULTS]
    folder = records.outputs(profile, **chosen)
    executed = [
        notebooks.execute(
            name,
            {"profile": profile, **chosen},
            target=folder / "notebooks" / f"{name}.ipynb",
            anew=options.tables,
        )
        for name in books
    ]
    for table in tables:
        print("\n" + (folder / "tables" / f"{table}.md").read_text())
    print(f"tables, figures, notebooks and records: {folder.relative_to(records.ROOT)}/")
    print(
        f"{computed} runs computed and {sum(executed)} of {len(executed)} notebooks executed "
        f"in {_duration(time.perf_counter() - start)}; the rest was there already"
    )
    if failed:
        lost = [f"{run.spec['method']}-{run.spec['rank']}: {run.message}" for run in failed]
        raise ValueError(f"{len(lost)} of {len(runs)} runs gave no result: {'; '.join(lost)}")


def audit(options):
    """Compute what is missing of the audit's runs, execute its notebook, say where it all is."""
    from . import doctor, grids, profiles
    from .audit import plan

    start = time.perf_counter()
    submit = _submission(options)
    options.profile = _profile(options)
    profile = profiles.profile_named(options.profile)
    seeds = options.seeds or profile.tables["table2"].seeds
    questions = plan.plan(options.profile, real=options.real)
    specs = plan.all_specs(questions, seeds)
    _quiet()
    fetch_all(options)
    if options.real:
        fetch_all(argparse.Namespace(profile="smollm2"))
    hashes = {}
    missing = [spec for spec in specs if grids.reusable(spec, own=True, known=hashes) is None]
    seconds = sum(spec.cost() for spec in missing) * doctor.SECONDS[machine.default_device()]
    print(
        f"{len(specs)} runs for {len(questions)} questions, seeds {', '.join(map(str, seeds))}; "
        f"{len(missing)} to compute: roughly {doctor.duration(seconds)} here"
    )
    submit(specs)
    grids.run_grid(specs, own=True, workers=options.workers)
    folder = plan.outputs(options.profile, seeds)
    given = {"profile": options.profile, "seeds": list(seeds)}  # shows what there is of real data
    notebooks.execute(
        "audit", given, target=folder / "notebooks" / "audit.ipynb", beside=(plan.REAL,)
    )
    pages.fill(folder / "README.md")
    print("\n" + (folder / "claims.md").read_text())
    print(f"tables, figures, notebook and records: {folder.relative_to(records.ROOT)}/")
    print(f"{len(missing)} runs computed in {_duration(time.perf_counter() - start)}")


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
    """Measure ours beside its alternatives; tables and figures, and its README's tables filled."""
    from . import figures, models
    from .benchmark import figures as drawn
    from .benchmark import measure, stages, subjects, tables

    folder = records.ROOT / "results" / ("benchmarks-quick" if options.quick else "benchmarks")
    if not options.tables:
        _quiet()
        chosen = subjects.subjects()
        print(measure.announcement(chosen, options.quick), flush=True)
        for name in models.EMBEDDED:
            models.prepare(name)
        measured = measure.measure(chosen, options.quick)
        measure.save({**measured, **stages.measure(options.quick)}, folder)
    result = measure.load(folder)
    runs = [records.load(path) for path in sorted(records.runs_folder("embedded").glob("*.json"))]
    made = {**tables.tables(result), "stages": stages.table(result, runs)}
    again = "make bench QUICK=1" if options.quick else "make bench"
    computed = result["provenance"].values()
    source = provenance.of_file([f"{folder.name}/benchmarks.json"], computed, again)
    both = source.joined(provenance.of_runs(runs, again)) if runs else source
    for name, table in made.items():
        table.save(folder / "tables" / name, both if name == "stages" else source)
    for name, figure in drawn.draw(result).items():
        figures.save(figure, folder / "figures" / name, source)
    pages.fill(folder / "README.md")
    print("\n".join(["", made["targets"].markdown(), made["training"].markdown()]))
    print(f"tables, figures and raw times: {folder.relative_to(records.ROOT)}/")


def report(options):
    """One HTML page of the executed notebooks, figures inside, and a reproducibility appendix."""
    profile = _profile(options)
    folder = records.outputs(profile, **_chosen(options))
    named = notebooks.of_profile(profile)
    paths = [folder / "notebooks" / f"{name}.ipynb" for name in reversed(named)]
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise ValueError(f"no executed notebook {absent[0]}: run `make reproduce` first")
    target = folder / "report.html"
    notebooks.one_page(paths, f"## Appendix\n\n{_appendix(options)}", target)
    print(f"report: {target.relative_to(records.ROOT)}")


def _appendix(options):
    from . import checklist, grids, profiles

    profile, chosen = _profile(options), _chosen(options)
    tables = profiles.profile_named(profile).tables
    specs = [spec for table in tables for spec in grids.plan(profile, table, **chosen)]
    runs = [record for spec in specs if (record := records.find(spec))]
    return checklist.appendix(runs, provenance.command("report", profile, **chosen)).markdown()


def verify(options):
    """Compute some of a profile's records again and compare every number."""
    from . import verify as examine

    profile = options.profile = _profile(options)
    kept = examine.chosen(profile, options.keys, options.share)
    _quiet()
    fetch_all(options)
    compared = examine.verify(kept)
    table = examine.table(profile, compared)
    name = f"verify_{profile.replace('-', '_')}"
    again = provenance.command("verify", profile, verify=options.keys, share=options.share)
    source = provenance.of_runs(list(kept.values()), again)
    table.save(examine.spread.path().parent / "tables" / name, source)
    print("\n" + table.markdown())
    broken = [one.key for one in compared if one.held == examine.BROKEN]
    if broken:
        raise ValueError(f"{len(broken)} of {len(compared)} records do not hold: {broken}")


def spread(_):
    """Measure how far a run's numbers move under conditions that stand for other machines."""
    from . import spread as examine

    _quiet()
    measured = examine.measure()
    computed = [found["machine"] for found in measured.values()]
    source = provenance.of_file(["reliability/spread.json"], computed, "make spread")
    examine.table(measured).save(examine.path().parent / "tables" / "spread", source)
    print(f"written: {examine.path().relative_to(records.ROOT)}")


def scaling(options):
    """Measure a small grid with one worker and two; estimate on paper what Mistral-7B's takes."""
    from . import scaling as examine
    from .benchmark import measure

    if not options.tables:
        _quiet()
        fetch_all(options)
    content = examine.load() if options.tables else examine.measure()
    again, table = "make scaling", examine.table(content)
    folder = records.ROOT / "results" / "reliability"
    source = provenance.of_file(["reliability/scaling.json"], [content["provenance"]], again)
    table.save(folder / "tables" / "scaling", source)
    benchmarks = measure.load(records.ROOT / "results" / "benchmarks")
    source = provenance.of_code(again, ["benchmarks/benchmarks.json"])
    examine.estimate_table(benchmarks).save(folder / "tables" / "mistral_estimate", source)
    pages.fill(folder / "README.md")
    print(f"\n{table.markdown()}\nwritten: {folder.relative_to(records.ROOT)}/")


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
    "spread": spread,
    "scaling": scaling,
}
