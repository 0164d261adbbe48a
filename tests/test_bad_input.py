"""Whatever comes in: it works, or is refused by a documented error, and changes no file.

Generated cases, counted (see `attempts`).
"""

import contextlib
import copy
import dataclasses
import io
import json
import string

import pyarrow
import pyarrow.parquet
import pytest
import torch
from attempts import attempt, cases
from hypothesis import example, given
from hypothesis import strategies as st
from small_runs import WordTokenizer, small, small_grid, tiny_gpt2

import curlora_lite
from curlora_lite import CURLoRAConfig, LoRAConfig, training
from curlora_lite.replication import (
    __main__,
    corpus,
    fetch,
    hub,
    machine,
    models,
    profiles,
    records,
    sequence,
)
from curlora_lite.replication.protocol import SWITCHES, Protocol
from curlora_lite.replication.specs import METHODS, PRECISIONS, RunSpec

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "../../etc", "..", "a/b", "\0", "é", "𝔘", "nan", "1e309", "-1"]),
)
JUNK = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    monkeypatch.setattr(machine, "fast_precision", lambda: "fp32")
    monkeypatch.setattr(machine, "packs_rows", lambda: False)


def places(value, path=()):
    """Paths to every part of plain data."""
    yield path
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


@st.composite
def spoiled(draw, whole):
    """Plain data with one part replaced by junk, taken out, or a part added."""
    value = copy.deepcopy(whole)
    path = draw(st.sampled_from([p for p in places(value) if p]))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    does = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if does == "remove":
        del parent[path[-1]]
    elif does == "add" and isinstance(parent, dict):
        parent[draw(st.text(max_size=5))] = draw(JUNK)
    else:
        parent[path[-1]] = draw(JUNK)
    return value


def mostly(fine, odd=JUNK):
    """Three of four times what is allowed, so that other parts are reached too."""
    return st.integers(0, 3).flatmap(lambda n: fine if n else odd)


CHANGES = st.sampled_from([f"{k}={v}" for k in SWITCHES for v in SWITCHES[k][2]])
NAMES = st.sampled_from(["published", "corrected"])
PROTOCOLS = st.tuples(
    mostly(NAMES, st.text(max_size=8)),
    st.lists(mostly(CHANGES, st.text(max_size=12)), max_size=3),
).map(lambda parts: ",".join([parts[0], *parts[1]]))


@cases(40)
@given(PROTOCOLS | st.text(max_size=30))
def test_protocols(text):
    protocol = attempt("protocol's text", lambda: Protocol.parse(text))
    if protocol:
        assert Protocol.parse(protocol.name().replace(", ", ",")) == protocol


SPEC = small_grid(methods=["curlora"])[0].to_dict()


@cases(80)
@given(spoiled(SPEC))
def test_specs(values):
    spec = attempt("RunSpec", lambda: RunSpec.from_dict(values))
    if spec:
        assert RunSpec.from_dict(spec.to_dict()) == spec
        assert set(spec.key) <= set(string.ascii_letters + string.digits + "-")
        inside = records.runs_folder(spec.profile, "/results").resolve()
        assert inside.parent.parent.as_posix() == "/results"


NUMBERS = mostly(st.lists(mostly(st.integers(1, 180), ODD), min_size=1, max_size=3))
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "profile": mostly(st.sampled_from([*profiles.PROFILES, "smollm2-quick"])),
        "table": mostly(st.sampled_from(["table1", "table2"])),
        "ranks": NUMBERS,
        "seeds": NUMBERS,
        "methods": mostly(st.lists(st.sampled_from(METHODS), min_size=1, max_size=3)),
        "protocol": mostly(PROTOCOLS),
        "precision": mostly(st.sampled_from(PRECISIONS)),
        "checkpointing": mostly(st.booleans()),
    },
)


@cases(80)
@given(ARGUMENTS)
@example({"seeds": [2**70]})
@example({"protocol": {}})
@example({"ranks": [[8]]})
def test_notebook_parameters_and_grids(arguments):
    """A notebook hands its parameters to `profiles.grid` as they are."""
    chosen = {"profile": "embedded", "table": "table1", **arguments}
    specs = attempt("grid and notebook parameters", lambda: profiles.grid(**chosen))
    for spec in specs or ():
        assert RunSpec.from_dict(spec.to_dict()) == spec
        torch.Generator().manual_seed(sequence.HEAD_SEED + spec.seed)  # refuses too large ones


OPTIONS = ["--profile", "--ranks", "--seeds", "--methods", "--protocol", "--precision"]
WORDS = st.sampled_from(["8", "0", "-1", "8,16", "lora", "head-only", "published", "x", "", "1e9"])


class Stopped(BaseException):
    """All was accepted, and it would go on to fetching."""


@cases(40)
@given(
    st.lists(
        st.tuples(st.sampled_from(OPTIONS), WORDS | st.text(max_size=6)), min_size=1, max_size=3
    )
)
def test_the_command_line(pairs):
    """One line beginning with `error:`, argparse's own, or on to fetching, where it is stopped."""
    said = io.StringIO()

    def stop(*_):
        raise Stopped

    def call():
        words = [word for pair in pairs for word in pair]
        with contextlib.redirect_stderr(said), contextlib.suppress(Stopped):
            assert __main__.main(["reproduce", *words]) == 1
            assert said.getvalue().startswith("error: ") and said.getvalue().count("\n") == 1
            raise ValueError(said.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((fetch, "fetch"), (hub, "folder"), (models, "prepare")):
            patch.setattr(owner, name, stop)
        attempt("command line", call, (ValueError, SystemExit))


TARGETS = st.lists(mostly(st.sampled_from(["c_attn", "c_proj"]), ODD), min_size=1, max_size=3)
CONFIG = st.fixed_dictionaries(
    {"target_modules": mostly(TARGETS)},
    optional={
        "rank": mostly(st.integers(1, 40)),
        "alpha": mostly(st.floats(-10, 10), st.floats() | JUNK),
        "seed": mostly(st.integers()),
        "selection": mostly(st.sampled_from(["eq4", "authors"])),
        "init": mostly(st.sampled_from(["usual", "authors"])),
    },
)
MODEL = tiny_gpt2().requires_grad_(False)
WEIGHTS = {name: value.clone() for name, value in MODEL.state_dict().items()}


def as_it_was():
    state = MODEL.state_dict()
    assert list(state) == list(WEIGHTS)
    assert all(torch.equal(state[name], value) for name, value in WEIGHTS.items())


@cases(60)
@given(CONFIG)
@example({"target_modules": 5})
@example({"selection": []})
@example({"alpha": 10**400})
def test_adapter_configurations(values):
    kind = LoRAConfig if "init" in values else CURLoRAConfig
    values = {k: v for k, v in values.items() if k != "selection" or "init" not in values}

    def call():
        return curlora_lite.add_adapters(MODEL, kind(**values))

    if attempt("adapter configuration", call):
        with torch.no_grad():
            assert torch.isfinite(MODEL(input_ids=torch.tensor([[1, 2, 3]])).logits).all()
        curlora_lite.remove_adapters(MODEL)
    as_it_was()


RECORD = dataclasses.asdict(records.RunRecord(SPEC, provenance={"workspace": "w", "commit": None}))
TEXTS_OF_RECORDS = st.one_of(spoiled(RECORD).map(json.dumps), JUNK.map(json.dumps))


@cases(80)
@given(TEXTS_OF_RECORDS.map(str.encode) | st.binary(max_size=300))
@example(b'{"spec": ' + b"[" * 100_000)
@example(b'{"half": ')
@example(b"9" * 5000)
def test_records(tmp_path, content):
    """Loaded or refused with the file named; to a grid a damaged one is an absent one."""
    spec = RunSpec.from_dict(SPEC)
    path = records.runs_folder(spec.profile, tmp_path) / f"{spec.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    found = attempt("record", lambda: records.load(path), folder=path.parent)
    reused = records.find(spec, tmp_path)
    assert reused is None or reused == found
    assert records.find(spec, tmp_path, own=sequence.VERSION) is None


@cases(15)
@given(st.binary(max_size=200))
def test_a_damaged_corpus(content):
    """The file in the cache is checked each time it is read, and left as it is."""
    file = fetch.cache_dir() / "files" / "hutto_ICWSM_2014.tar.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    corpus._read.cache_clear()
    call = lambda: corpus.text("eval")  # noqa: E731
    assert attempt("corpus", call, (fetch.FetchError,), file.parent) is None


VALUES = st.lists(st.integers(0, 5), min_size=2, max_size=2) | st.lists(
    st.text(max_size=5), min_size=2, max_size=2
)
COLUMNS = st.dictionaries(st.sampled_from(["sentence1", "sentence2", "label", "idx"]), VALUES)


@cases(30)
@given(COLUMNS | st.binary(max_size=100))
def test_a_mirrors_data(tmp_path, content):
    """Whatever is not the pinned content is refused, unread files being left as they are."""
    for part in ("mrpc/train", "mrpc/validation", "sst2/train", "sst2/validation"):
        path = tmp_path / "nyu-mll" / "glue" / f"{part}-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else b"")
    if not isinstance(content, bytes):
        pyarrow.parquet.write_table(
            pyarrow.table(content), path.parents[1] / "mrpc/train-0.parquet"
        )
    hub._rows.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURLORA_MIRROR", str(tmp_path))
        call = lambda: hub._rows("mrpc", "train")  # noqa: E731
        assert attempt("mirror's data", call, (fetch.FetchError,), tmp_path) is None


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@cases(40)
@given(spoiled(INDEX).map(json.dumps) | JUNK.map(json.dumps) | st.text(max_size=20))
@example(json.dumps({"weight_map": {"a": "../../../etc/passwd"}}))
@example(json.dumps({"weight_map": {"a": "/etc/passwd"}}))
@example(json.dumps({"weight_map": {"a": "shards/../../x"}}))
def test_a_mirrors_index_of_weights(tmp_path, text):
    """Never a file outside the model's folder, whatever the index names."""
    (tmp_path / "model.safetensors.index.json").write_text(text)
    repository = hub.MODELS["mistral-7b"]
    call = lambda: hub.missing(repository, tmp_path)  # noqa: E731
    absent = attempt("mirror's index", call, (fetch.FetchError,), tmp_path)
    for name in set(absent or ()) - set(repository.files):
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()


TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(["a", "film", "é", "𝔘𝔫", "\u202e", "news"]), max_size=90).map(
        " ".join
    ),
    st.sampled_from(["", " ", "\n\n", "word " * 20_000, "\ud800", "\0", "٣ ١"]),
)
LABELS = st.sampled_from([0, 0, 1, 1, 1, 2, -1, -100, 7, None])


class WideTokenizer(WordTokenizer):
    """Gives ids that the model's vocabulary of 64 does not have."""

    def __call__(self, text, return_tensors=None, verbose=True):
        ids = super().__call__(text, return_tensors, verbose)["input_ids"]
        return {"input_ids": ids + 40 if return_tensors else [i + 40 for i in ids]}


@cases(50)
@given(
    st.lists(st.tuples(TEXTS, st.none() | TEXTS, LABELS), min_size=1, max_size=5),
    st.sampled_from([WordTokenizer(), WordTokenizer(), WideTokenizer()]),
    st.sampled_from([8, 64, 512]),
)
@example([("", None, 0)], WordTokenizer(), 64)
@example([("a", None, None)], WordTokenizer(), 64)
@example([("word " * 100_000, None, 1)], WordTokenizer(), 64)
def test_texts_and_labels(rows, tokenizer, longest):
    """Through encoding, checks and training; what passes the checks trains."""
    columns = dict(zip(("text", "pair", "label"), map(list, zip(*rows, strict=True)), strict=True))
    spec = small(profiles.grid("embedded", "table2", methods=["head-only"])[0])
    task = spec.tasks[0]
    head = sequence.new_head(MODEL, task.classes, 0)

    def call():
        encoded = training.encode(columns, tokenizer, longest)
        training.check_rows(encoded, "mrpc, train", task.classes, 64, 64)
        recipe = sequence.recipe(spec, task)
        return training.train_task(MODEL.base_model, head, encoded, recipe, 0)["losses"]

    losses = attempt("texts and labels", call)
    assert losses is None or all(loss == loss for loss in losses)
    assert losses is None or not any(label is None for *_, label in rows)
    as_it_was()
