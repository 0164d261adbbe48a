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

import huggingface_hub
import pyarrow
import pyarrow.parquet
from huggingface_hub import errors

from ..checks import known
from .fetch import FetchError, cache_dir, sha256_of


@dataclass(frozen=True)
class Repository:
    """A repository on the hub: what is read of it, at which revision."""

    name: str
    kind: str
    revision: str
    files: tuple
    licence: str
    gated: bool = False
    gigabytes: float = 0.01


GLUE = Repository(
    "nyu-mll/glue",
    "dataset",
    "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
    tuple(
        f"{task}/{part}-*.parquet" for task in ("mrpc", "sst2") for part in ("train", "validation")
    ),
    "other (GLUE)",
)
WIKITEXT = Repository(
    "Salesforce/wikitext",
    "dataset",
    "b08601e04326c79dfdd32d625aee71d232d685c3",
    ("wikitext-2-raw-v1/test-*.parquet",),
    "CC-BY-SA-3.0",
)
SENTIMENT140 = Repository(
    "stanfordnlp/sentiment140",
    "dataset",
    "refs/convert/parquet",  # the repository itself holds a script, which nothing here runs
    ("sentiment140/train/*.parquet", "sentiment140/test/*.parquet"),
    "unknown",
)
DATASETS = (GLUE, WIKITEXT, SENTIMENT140)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
MODELS = {
    "gpt2-large": Repository(
        "openai-community/gpt2-large",
        "model",
        "32b71b12589c2f8d625668d2335a01cac3249519",
        ("config.json", "model.safetensors", *_TOKENIZER),
        "MIT",
        gigabytes=3.3,
    ),
    "mistral-7b": Repository(
        "mistralai/Mistral-7B-v0.3",
        "model",
        "caa1feb0e54d415e2df31207e5f4e273e33509b1",
        ("config.json", "model-*.safetensors", "model.safetensors.index.json", *_TOKENIZER),
        "Apache-2.0",
        gated=True,
        gigabytes=14.5,
    ),
}
ASIDE = 5  # every fifth row of Sentiment140's test split is kept out of training where asked for

# (task, part) -> (repository, its files, the columns that are read)
_PAIR, _ONE = ("sentence1", "sentence2", "label"), ("sentence", "label")
_TWEET = ("text", "sentiment")
TABLES = {
    ("mrpc", "train"): (GLUE, "mrpc/train-*.parquet", _PAIR),
    ("mrpc", "eval"): (GLUE, "mrpc/validation-*.parquet", _PAIR),
    ("sst2", "train"): (GLUE, "sst2/train-*.parquet", _ONE),
    ("sst2", "eval"): (GLUE, "sst2/validation-*.parquet", _ONE),
    # the author's code trains on the test split and evaluates on the train split
    ("sentiment140", "train"): (SENTIMENT140, "sentiment140/test/*.parquet", _TWEET),
    ("sentiment140", "eval"): (SENTIMENT140, "sentiment140/train/*.parquet", _TWEET),
    ("text", "eval"): (WIKITEXT, "wikitext-2-raw-v1/test-*.parquet", ("text",)),
}
# sha256 of what is read of a pinned revision, wherever it comes from (see `_digest`).
# A mirror may hold Sentiment140's train split in part: its first 1,024 rows, the published, count.
PINNED = {
    "mrpc/train": "eec2dc9a83a3b728f6cf93ad686090248f6fa8e9841969686f7d39be18ca71c9",
    "mrpc/eval": "c70bd376cf4a6837bdcf30844cff41d03b154006b6cec7436df6ca1343edcce3",
    "sst2/train": "b0490eb7d732a01a217ef811810f8b85f3716dfaaf5bfa7b585e87f32f46e0e8",
    "sst2/eval": "310c790cfcefa01c8a1cfaeefd36b3788af7488987d349b382f5461590409a64",
    "sentiment140/train": "01ed4b4c79919dab9993172f479813354010032c39c82d2bebfcec27c7cdc842",
    "sentiment140/eval": "fb7f454a6dc074822596d95cffce4d6d07807541acf938e6a59462fde1d9fa45",
    "text/eval": "343c2979225330c50cc09f8cde0f4355a8da6e0c482043c4319a238dd2330d97",
}


def mirror():
    """The local mirror's folder, or None. FetchError if it is named and not there."""
    named = os.environ.get("CURLORA_MIRROR")
    if not named:
        return None
    if not Path(named).is_dir():
        raise FetchError(f"MIRROR: there is no folder {named}")
    return Path(named)


def folder(repository):
    """The folder that holds the repository's files, downloaded first where there is no mirror.

    FetchError, saying what to do, if the mirror lacks a file, the hub cannot be reached or refuses.
    """
    source = mirror()
    path = (source or cache_dir() / "hub") / repository.name
    if source is None and missing(repository, path):
        _download(repository, path)
    absent = missing(repository, path)
    if absent:
        where = "the mirror" if source else "what was downloaded"
        raise FetchError(
            f"{where} lacks {path / absent[0]}. Expected the layout of "
            f"`{_command(repository, path)}`"
        )
    return path


def missing(repository, path):
    """What the folder `path` lacks of a repository: patterns that match nothing, absent shards."""
    absent = [pattern for pattern in repository.files if not list(path.glob(pattern))]
    index = path / "model.safetensors.index.json"
    if index.name in repository.files and index.exists():
        absent += [shard for shard in _shards(index) if not (path / shard).exists()]
    return absent


def _shards(index):
    """The files that an index of weights names; FetchError if it is none, or leads elsewhere."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or name in (".", "..")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FetchError(f"{index}: not an index of weights. Get it again") from error
    if outside:
        raise FetchError(f"{index}: names {outside[0]!r}, expected files beside it. Get it again")
    return names


def origin(repository):
    """Where its files come from, for a record: `source`, `repository`, `revision`.

    The revision is that of the download; None if a mirror does not say (keeps no `.cache`).
    """
    path = folder(repository)
    notes = sorted((path / ".cache" / "huggingface").rglob("*.metadata"))
    revision = notes[0].read_text(errors="replace").split("\n")[0].strip() if notes else None
    where = "mirror" if mirror() else "hub"
    return {"source": where, "repository": repository.name, "revision": revision}


def _download(repository, path):
    try:
        huggingface_hub.snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            allow_patterns=list(repository.files),
            local_dir=path,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
        )
    except (OSError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise FetchError(f"{repository.name}{_why(error, repository, path)}") from error


def _why(error, repository, path):
    """What is wrong and what to do about it, after the repository's name."""
    if isinstance(error, errors.LocalEntryNotFoundError):
        # what snapshot_download says of any other trouble; the trouble itself is its cause
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        return _gated(repository)
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f": the hub says that there is no such {repository.kind}, or that this token may not "
            "see it. Check HF_ENDPOINT, and the token if you use one"
        )
    if isinstance(error, (errors.RevisionNotFoundError, errors.EntryNotFoundError)):
        return f": the hub has no revision {repository.revision}"
    if status := getattr(getattr(error, "response", None), "status_code", None):
        return f": the hub answered {status}. Try again later, or use MIRROR=DIR"
    there = _command(repository, f"DIR/{repository.name}")
    return (
        f": the hub cannot be reached from here. Where it can be, run `{there}`, copy DIR here and "
        f"pass MIRROR=DIR (or put the files into {path})"
    )


def _command(repository, path):
    option = "--repo-type dataset " if repository.kind == "dataset" else ""
    return (
        f"hf download {option}{repository.name} --revision {repository.revision} --local-dir {path}"
    )


def _gated(repository):
    has = "The token in use has no grant" if huggingface_hub.get_token() else "There is no token"
    return (
        f" is gated. {has}: ask for access at https://huggingface.co/{repository.name}, then log "
        "in with `hf auth login` or set HF_TOKEN"
    )


@functools.cache
def _rows(task, part):
    """Tuples of the columns that are read, from the parquet files of one split, in their order."""
    repository, pattern, columns = TABLES[task, part]
    files = sorted(folder(repository).glob(pattern))
    rows = []
    for file in files:
        try:
            table = pyarrow.parquet.read_table(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise FetchError(
                f"{file}: not a whole parquet file. Delete it and get it again"
            ) from error
        lacking = [c for c in columns if c not in table.column_names]
        if lacking:
            raise FetchError(
                f"{file}: has no column {lacking[0]}; it has {', '.join(table.column_names)}"
            )
        rows += zip(*(table[c].to_pylist() for c in columns), strict=True)
    expected = PINNED.get(f"{task}/{part}")
    found = _digest(task, part, rows)
    if expected and found != expected:
        raise FetchError(
            f"{files[0]}: its content's sha256 is {found}, expected {expected} "
            f"({repository.name} at revision {repository.revision}). Get it again"
        )
    return rows


def _digest(task, part, rows):
    if task == "text":
        content = "".join(row[0] for row in rows)  # a mirror may leave empty rows out
    else:
        content = rows[:1024] if (task, part) == ("sentiment140", "eval") else rows
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def examples(task, part, sentiment_eval):
    """(text, pair or None, label) rows of a split, in its own order.

    Sentiment140: every fifth row of the test split is the `held-out` part, kept out of `train`
    unless the protocol evaluates on the `first` rows, as published. ValueError for `tune`: nothing
    is chosen on the paper's data.
    """
    known("part", part, ("train", "eval", "held-out"))
    if task != "sentiment140":
        rows = _rows(task, part)
        return rows if task == "mrpc" else [(text, None, label) for text, label in rows]
    split = "eval" if part == "eval" and sentiment_eval != "held-out" else "train"
    rows = [(text, None, sentiment) for text, sentiment in _rows(task, split)]
    if split == "eval" or sentiment_eval == "first":
        return rows
    aside = part != "train"
    return [row for i, row in enumerate(rows) if (i % ASIDE == ASIDE - 1) == aside]


def text(part):
    """WikiText-2's test split, its rows put together with nothing between, as the author does."""
    known("part", part, ("eval",))
    return "".join(row[0] for row in _rows("text", "eval"))


def weights_sha256(path, patterns=("*.safetensors",)):
    """One sha256 for the safetensors files of a folder: of the file's own, if there is one.

    patterns: which of them are read; a copy of a whole repository may hold others.
    """
    wanted = [pattern for pattern in patterns if pattern.endswith(".safetensors")]
    files = sorted(file for pattern in wanted for file in path.glob(pattern))
    if len(files) == 1:
        return sha256_of(files[0])
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
