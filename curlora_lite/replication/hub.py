"""The paper's own models and data: from the Hugging Face hub, or from a local mirror of it.

Either way they are read from a folder `<owner>/<name>/…` as `hf download --local-dir` lays it out:
the folder named by `$CURLORA_MIRROR` (`make … MIRROR=DIR`), which is only read, or `cache/hub`,
which is filled from the hub (`$HF_ENDPOINT`, if set) at pinned revisions.
"""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import errors, get_token, snapshot_download
from pyarrow import ArrowException, parquet

from . import paper
from .fetch import SOURCES, FetchError, cache_dir, sha256_of


@dataclass(frozen=True)
class Repository:
    """A repository on the hub: what is read of it, at which revision."""

    name: str
    revision: str
    files: list
    kind: str = "model"
    gigabytes: float = 0.01
    gated: bool = False


# (task, part) -> (repository, its files, the columns that are read)
TABLES = {
    (table["task"], table["part"]): (table["repository"], table["files"], table["columns"])
    for table in SOURCES["table"]
}
DATASETS = tuple(
    Repository(name, revision, [f for of, f, _ in TABLES.values() if of == name], "dataset")
    for name, revision in SOURCES["dataset"].items()
)
MODELS = {name: Repository(**known) for name, known in SOURCES["model"].items()}
# sha256 of what is read of a pinned revision, wherever it comes from (see `_digest`)
PINNED = {f"{table['task']}/{table['part']}": table["sha256"] for table in SOURCES["table"]}
ASIDE = 5  # every fifth row of Sentiment140's test split is kept out of training where asked for


def mirror():
    """The local mirror's folder, or None. FetchError if it is named and not there."""
    named = os.environ.get("CURLORA_MIRROR")
    if named and not Path(named).is_dir():
        raise FetchError(f"MIRROR: there is no folder {named}")
    return Path(named) if named else None


def place(repository):
    """Where the repository's files are, or will be."""
    return (mirror() or cache_dir() / "hub") / repository.name


def folder(repository):
    """The folder that holds the repository's files, downloaded first where there is no mirror.

    FetchError, saying what to do, if the mirror lacks a file, the hub cannot be reached or refuses.
    """
    path = place(repository)
    if not mirror() and missing(repository):
        where = {"repo_type": repository.kind, "revision": repository.revision, "local_dir": path}
        where["endpoint"] = os.environ.get("HF_ENDPOINT") or None
        try:
            snapshot_download(repository.name, allow_patterns=repository.files, **where)
        except OSError as error:  # the hub's own errors are, too
            raise FetchError(f"{repository.name}{_why(error, repository, path)}") from error
    if absent := missing(repository):
        lacks = "the mirror lacks" if mirror() else "what was downloaded lacks"
        layout = f"Expected the layout of `{_command(repository, path)}`"
        raise FetchError(f"{lacks} {path / absent[0]}. {layout}")
    return path


def missing(repository, path=None):
    """What a repository's folder (or `path`) lacks: patterns that match nothing, absent shards."""
    path = path or place(repository)
    absent = [pattern for pattern in repository.files if not list(path.glob(pattern))]
    index = path / "model.safetensors.index.json"
    if index.name in repository.files and index.exists():
        absent += [shard for shard in _shards(index) if not (path / shard).exists()]
    return absent


def _shards(index):
    """The files that an index of weights names; FetchError if it is none, or leads elsewhere."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or name == ".."]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FetchError(f"{index}: not an index of weights. Get it again") from error
    if outside:
        raise FetchError(f"{index}: names {outside[0]!r}, expected files beside it. Get it again")
    return names


def origin(repository):
    """Where its files come from, for a record: `source`, `repository`, `revision`.

    The revision is that of the download; None if a mirror does not say (keeps no `.cache`).
    """
    notes = sorted((folder(repository) / ".cache" / "huggingface").rglob("*.metadata"))
    revision = notes[0].read_text("utf-8", "replace").split("\n")[0].strip() if notes else None
    source = "mirror" if mirror() else "hub"
    return {"source": source, "repository": repository.name, "revision": revision}


def _why(error, repository, path):
    """What is wrong and what to do about it, after the repository's name."""
    if isinstance(error, errors.LocalEntryNotFoundError):
        # what snapshot_download says of any other trouble; the trouble itself is its cause
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        token = "The token in use has no grant" if get_token() else "There is no token"
        page = f"https://huggingface.co/{repository.name}"
        return f" is gated. {token}: ask for access at {page}, then `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.HfHubHTTPError):  # says what was asked for, and what may help
        return f": the hub answered: {error}. Try again later, or use MIRROR=DIR"
    there = _command(repository, f"DIR/{repository.name}")
    return (
        f": the hub cannot be reached from here. Where it can be, run `{there}`, copy DIR here and "
        f"pass MIRROR=DIR (or put the files into {path})"
    )


def _command(repository, path):
    option = "--repo-type dataset " if repository.kind == "dataset" else ""
    at = f"--revision {repository.revision} --local-dir {path}"
    return f"hf download {option}{repository.name} {at}"


@functools.cache
def _rows(task, part):
    """Tuples of the columns that are read, from the parquet files of one split, in their order."""
    name, pattern, columns = TABLES[task, part]
    (repository,) = (one for one in DATASETS if one.name == name)
    rows, files = [], sorted(folder(repository).glob(pattern))
    for file in files:
        try:
            table = parquet.read_table(file)
            rows += zip(*(table[column].to_pylist() for column in columns), strict=True)
        except (ArrowException, OSError, KeyError) as error:
            wanted = f"not a whole parquet file with columns {', '.join(columns)}"
            raise FetchError(f"{file}: {wanted} ({error}). Delete it and get it again") from error
    expected, found = PINNED.get(f"{task}/{part}"), _digest(task, part, rows)
    if expected not in (None, found):
        said = f"its content's sha256 is {found}, expected {expected}"
        at = f"{name} at revision {repository.revision}"
        raise FetchError(f"{files[0]}: {said} ({at}). Get it again")
    return rows


def _digest(task, part, rows):
    content = rows[:1024] if (task, part) == ("sentiment140", "eval") else rows
    if task == "text":
        content = "".join(row[0] for row in rows)  # a mirror may leave empty rows out
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def examples(task, part, sentiment_eval):
    """(text, pair or None, label) rows of a split, in its own order.

    Sentiment140: every fifth row of the test split is the `held-out` part, kept out of `train`
    unless the protocol evaluates on the `first` rows, as published. `tune`: rows that no run trains
    on in Table 1 or scores: of MRPC and SST-2 the training split's later ones, of Sentiment140 as
    many as there are behind the first 1,024 negative and positive ones of its larger split.
    """
    tune = part == "tune"
    if task != "sentiment140":
        rows = _rows(task, "train" if tune else part)[paper.TRAIN_ROWS["table1"][task] * tune :]
        return rows if task == "mrpc" else [(text, None, label) for text, label in rows]
    split = "eval" if tune or (part == "eval" and sentiment_eval != "held-out") else "train"
    rows = [(text, None, sentiment) for text, sentiment in _rows(task, split)]
    if tune:
        negative, positive = ([row for row in rows if row[2] == rating] for rating in (0, 4))
        return negative[paper.EVAL_ROWS[task] :] + positive[paper.EVAL_ROWS[task] :]
    if split == "eval" or sentiment_eval == "first":
        return rows
    aside = part != "train"
    return [row for i, row in enumerate(rows) if (i % ASIDE == ASIDE - 1) == aside]


def text(part):
    """WikiText-2's test split, its rows put together with nothing between, as the author does.

    `tune`: the second half of it, which is behind all that is read of it but by `whole-text`.
    """
    whole = "".join(row[0] for row in _rows("text", "eval"))
    return whole[len(whole) // 2 :] if part == "tune" else whole


def weights_sha256(path, patterns=("*.safetensors",)):
    """One sha256 for the safetensors files of a folder: of the file's own, if there is one.

    patterns: which of them are read; a copy of a whole repository may hold others.
    """
    wanted = [pattern for pattern in patterns if pattern.endswith(".safetensors")]
    hashes = [sha256_of(file) for file in sorted(f for p in wanted for f in path.glob(p))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
