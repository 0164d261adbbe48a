"""Whatever comes in: it works, or is refused by a documented error, and changes no file.

Several hundred generated cases, counted (see `attempts`).
"""

import contextlib
import copy
import dataclasses
import io
import json
import os
import string

import attempts
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from attempts import attempt, cases
from hypothesis import example, given
from hypothesis import strategies as st
from small_runs import WordTokenizer, small, small_grid, tiny_gpt2

from curlora_lite import adapter_files, adapters, training
from curlora_lite.replication import (
    corpus,
    fetch,
    grids,
    hub,
    notebooks,
    profiles,
    records,
    sequence,
)
from curlora_lite.replication.profiles import RunSpec
from curlora_lite.replication.protocol import SWITCHES, Protocol

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


@cases(80)
@given(PROTOCOLS | st.text(max_size=30))
def test_protocols(text):
    protocol = attempt("protocol's text", lambda: Protocol.parse(text))
    if protocol:
        assert Protocol.parse(protocol.name().replace(", ", ",")) == protocol


SPEC = small_grid(methods=["curlora"])[0].to_dict()


@cases(120)
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
        "methods": mostly(st.lists(st.sampled_from(profiles.METHODS), min_size=1, max_size=3)),
        "protocol": mostly(PROTOCOLS),
        "precision": mostly(st.sampled_from(profiles.PRECISIONS)),
        "checkpointing": mostly(st.booleans()),
    },
)


@cases(120)
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


@cases(40)
@given(st.dictionaries(st.text(min_size=1, max_size=10), ODD, min_size=1, max_size=2))
def test_unknown_notebook_parameters(parameters):
    """Refused before anything runs; names that are known come from the source."""
    unknown = {f"x{name}": value for name, value in parameters.items()}
    folder = records.ROOT / "notebooks"
    attempt(
        "notebook parameter's name", lambda: notebooks.execute("report", unknown), folder=folder
    )
    assert attempts.ENDED["notebook parameter's name", "success"] == 0


WORDS = st.sampled_from(["8", "0", "-1", "8,16", "lora", "head-only", "published", "x", "", "1e9"])


@cases(40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["--profile", "--ranks", "--seeds", "--methods", "--protocol"]),
            WORDS | st.text(max_size=6),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_command_line(pairs):
    """One line beginning with `error:`, argparse's own, or on to fetching, where it is stopped."""
    said = io.StringIO()

    def call():
        words = [word for pair in pairs for word in pair]
        with contextlib.redirect_stderr(said), contextlib.suppress(Stopped):
            assert cli.main(["reproduce", *words]) == 1
            assert said.getvalue().startswith("error: ")
            raise ValueError(said.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "fetch_all", _stopped)
        attempt("command line", call, (ValueError, SystemExit))


class Stopped(BaseException):
    """All was accepted, and it would go on to fetching."""


def _stopped(_):
    raise Stopped


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


@cases(80)
@given(CONFIG)
@example({"target_modules": 5})
@example({"selection": []})
@example({"alpha": 10**400})
def test_adapter_configurations(values):
    kind = adapters.LoRAConfig if "init" in values else adapters.CURLoRAConfig
    values = {k: v for k, v in values.items() if k != "selection" or "init" not in values}

    def call():
        return adapters.add_adapters(MODEL, kind(**values))

    if attempt("adapter configuration", call):
        with torch.no_grad():
            assert torch.isfinite(MODEL(input_ids=torch.tensor([[1, 2, 3]])).logits).all()
        adapters.remove_adapters(MODEL)
    as_it_was()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The two files of a CURLoRA adapter of `MODEL`, as bytes, and a folder to spoil them in."""
    folder = tmp_path_factory.mktemp("adapter")
    config = adapters.CURLoRAConfig(rank=4, target_modules=["c_attn"])
    adapters.add_adapters(MODEL, config)
    adapter_files.save_adapter(MODEL, folder)
    adapters.remove_adapters(MODEL)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def load(folder):
    adapter_files.load_adapter(MODEL, folder)
    adapters.remove_adapters(MODEL)


@cases(80)
@given(st.data())
def test_descriptions_of_adapters(adapter, data):
    folder, files = adapter
    whole = json.loads(files["adapter.json"])
    value = data.draw(spoiled(whole) | JUNK)
    paths = st.sampled_from(
        ["../../transformer.h.0.attn.c_attn", "/etc/passwd", "", ".", "lm_head"]
    )
    if isinstance(value, dict) and isinstance(value.get("projections"), dict):
        moved = data.draw(st.none() | paths)
        for first in list(value["projections"])[: moved is not None]:
            value["projections"][moved] = value["projections"].pop(first)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "adapter.json").write_text(json.dumps(value))
    errors = (adapter_files.AdapterFileError,)
    attempt("adapter's description", lambda: load(folder), errors, folder)
    as_it_was()


TENSORS = st.sampled_from(["U", "rows", "cols"])


@cases(60)
@given(st.data())
def test_tensors_of_adapters(adapter, data):
    """Bytes changed or cut, or other tensors: shapes, dtypes, indices, not finite."""
    folder, files = adapter
    for name, content in files.items():
        (folder / name).write_bytes(content)
    path = folder / "adapter.safetensors"
    if data.draw(st.booleans()):
        content = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, 400), max_size=4)):
            content[place % len(content)] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(content[: data.draw(st.integers(0, 2 * len(content)))]))
    else:
        tensors = safetensors.torch.load_file(path)
        name = data.draw(TENSORS)
        odd = st.sampled_from(
            [tensors[name] * 1000, tensors[name].double(), tensors[name][:1], torch.zeros(0)]
        )
        other = data.draw(odd)
        other = other / 0 if other.is_floating_point() and data.draw(st.booleans()) else other
        safetensors.torch.save_file({**tensors, name: other.contiguous()}, path)
    errors = (adapter_files.AdapterFileError,)
    attempt("adapter's tensors", lambda: load(folder), errors, folder)
    as_it_was()


RECORD = records.RunRecord(SPEC, provenance={"workspace": "w", "code": "c", "commit": None})


@cases(100)
@given(st.one_of(spoiled(dataclasses.asdict(RECORD)).map(json.dumps), JUNK.map(json.dumps)))
@example('{"spec": ' + "[" * 100_000)
@example('{"half": ')
@example("9" * 5000)
def test_records(tmp_path_factory, text):
    """Loaded or refused with the file named; to a grid a damaged one is an absent one."""
    folder = tmp_path_factory.getbasetemp() / "records"
    spec = RunSpec.from_dict(SPEC)
    path = records.runs_folder(spec.profile, folder) / f"{spec.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = attempt("record", lambda: records.load(path), folder=folder)
    reused = records.find(spec, folder)
    assert (reused is None) or reused == found
    if found is None:
        assert reused is None
    assert records.find(spec, folder, own=True) is None


@cases(20)
@given(st.binary(max_size=300))
def test_records_of_any_bytes(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "records"
    spec = RunSpec.from_dict(SPEC)
    path = records.runs_folder(spec.profile, folder) / f"{spec.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    attempt("record", lambda: records.load(path), folder=folder)
    assert records.find(spec, folder) is None


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("CURLORA_CACHE")
    os.environ["CURLORA_CACHE"] = str(folder)
    yield folder
    os.environ.pop("CURLORA_CACHE")
    if before is not None:
        os.environ["CURLORA_CACHE"] = before


@cases(25)
@given(st.binary(max_size=200))
def test_a_damaged_corpus(cache, content):
    """The file in the cache is checked each time it is read, and left as it is."""
    file = cache / "files" / "hutto_ICWSM_2014.tar.gz"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    corpus._read.cache_clear()
    attempt("corpus", lambda: corpus.text("eval"), (fetch.FetchError,), cache)
    assert attempts.ENDED["corpus", "success"] == 0


COLUMNS = st.dictionaries(
    st.sampled_from(["sentence1", "sentence2", "label", "idx"]),
    st.lists(st.integers(0, 5), min_size=2, max_size=2)
    | st.lists(st.text(max_size=5), min_size=2, max_size=2),
    max_size=4,
)


@pytest.fixture
def mirror(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "mirror"
    monkeypatch.setenv("CURLORA_MIRROR", str(folder))
    for name in ("train", "validation"):
        for task in ("mrpc", "sst2"):
            path = folder / "nyu-mll" / "glue" / task / f"{name}-0.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return folder


@cases(40)
@given(st.one_of(COLUMNS, st.binary(max_size=100)))
def test_a_mirrors_data(mirror, content):
    """Whatever is not the pinned content is refused, unread files being left as they are."""
    path = mirror / "nyu-mll" / "glue" / "mrpc" / "train-0.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pyarrow.parquet.write_table(pyarrow.table(content), path)
    hub._rows.cache_clear()
    attempt("mirror's data", lambda: hub._rows("mrpc", "train"), (fetch.FetchError,), mirror)
    assert attempts.ENDED["mirror's data", "success"] == 0


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@cases(60)
@given(spoiled(INDEX).map(json.dumps) | JUNK.map(json.dumps) | st.text(max_size=20))
@example(json.dumps({"weight_map": {"a": "../../../etc/passwd"}}))
@example(json.dumps({"weight_map": {"a": "/etc/passwd"}}))
@example(json.dumps({"weight_map": {"a": "shards/../../x"}}))
def test_a_mirrors_index_of_weights(tmp_path_factory, text):
    """Never a file outside the model's folder, whatever the index names."""
    folder = tmp_path_factory.getbasetemp() / "index"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors.index.json").write_text(text)
    repository = hub.MODELS["mistral-7b"]
    call = lambda: hub.missing(repository, folder)  # noqa: E731
    absent = attempt("mirror's index", call, (fetch.FetchError,), folder)
    for name in set(absent or ()) - set(repository.files):
        assert (folder / name).resolve().parent == folder.resolve()


@cases(30)
@given(st.text(max_size=12) | st.sampled_from(["../..", "/", "\0", "a\nb", "é" * 300]))
def test_names_of_mirrors(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.os, "environ", {"CURLORA_MIRROR": f"/nowhere/{name}"})
        attempt("mirror's name", hub.mirror, (fetch.FetchError,))
    assert attempts.ENDED["mirror's name", "success"] == 0


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


@cases(70)
@given(
    st.lists(st.tuples(TEXTS, st.none() | TEXTS, LABELS), min_size=1, max_size=5),
    st.sampled_from([WordTokenizer(), WordTokenizer(), WideTokenizer()]),
    st.sampled_from([8, 64, 512]),
)
@example([("", None, 0)], WordTokenizer(), 64)
@example([("a", None, 7)], WordTokenizer(), 64)
@example([("word " * 100_000, None, 1)], WordTokenizer(), 64)
def test_texts_and_labels(rows, tokenizer, longest):
    """Through encoding, checks and training; what passes the checks trains."""
    columns = dict(zip(("text", "pair", "label"), map(list, zip(*rows, strict=True)), strict=True))
    spec = small(profiles.grid("embedded", "table2", methods=["head-only"])[0])
    task = dataclasses.replace(spec.tasks[0], train_rows=len(rows))
    head = sequence.new_head(MODEL, task.classes, 0)

    def call():
        encoded = training.encode(columns, tokenizer, longest)
        training.check_rows(encoded, "mrpc, train", task.classes, *sequence._limits(MODEL))
        return training.train_task(MODEL.base_model, head, task, encoded, spec, 0)["losses"]

    losses = attempt("texts and labels", call)
    assert losses is None or all(loss == loss for loss in losses)
    as_it_was()


@cases(20)
@given(st.floats(1e20, 1e38) | st.sampled_from([1e-3, 1e30]), st.integers(0, 99))
def test_a_diverged_run_is_recorded_and_the_grid_goes_on(tmp_path, rate, seed):
    """In every order of runs that diverge and runs that do not."""
    with pytest.MonkeyPatch.context() as patch:
        made = []

        def run(spec, progress, checkpoint):
            made.append(spec)
            if spec.learning_rate > 1:
                return records.RunRecord(spec.to_dict(), "diverged", "loss nan at step 3 of 9")
            return records.RunRecord(spec.to_dict())

        patch.setattr(continual, "run", run)
        specs = [small(s) for s in profiles.grid("embedded", "table1", ranks=[2, 3, 4])]
        specs[seed % 7] = dataclasses.replace(specs[seed % 7], learning_rate=rate)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        found = attempt("diverged run in a grid", lambda: grids.run_grid(specs, folder, workers=1))
    assert len(made) == len(found) == 7
    assert [r.status for r in found].count("diverged") == (rate > 1)


def test_at_least_five_hundred_cases_were_tried():
    """Counted over this file, which runs from top to bottom."""
    assert sum(attempts.ENDED.values()) >= 500
