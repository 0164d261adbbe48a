"""Whatever comes in: it works, or is refused by a documented error that names what came.

Arguments by a table; files, which anybody may hand over, by generated cases too: the same each
time, a refused one changes no file.
"""

import copy
import dataclasses
import json
import string
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_runs import small_grid

from curlora_lite import CURLoRAConfig, cur
from curlora_lite.layers import CURLoRALinear, LoRALinear
from curlora_lite.replication import __main__, cluster, data, fetch, hub, models, profiles, records
from curlora_lite.replication.protocol import Protocol
from curlora_lite.replication.specs import RunSpec, TaskSpec
from curlora_lite.training import Recipe

grid, linear = partial(profiles.grid, "embedded", "table1"), torch.nn.Linear(4, 6)
other = partial(dataclasses.replace, grid()[1])
select = partial(cur.select, torch.ones(2, 3), selection=cur.Selection(), generator=None)
recipe, submit = partial(Recipe, 0.1, 1, 1), partial(cluster.run_grid, grid(), "nowhere")
lora = partial(LoRALinear, linear, generator=torch.Generator())
RANK = "rank: got {}, expected a whole number from 1 to 2 for a projection of shape"
REFUSED = [
    (lambda: profiles.grid("embeded", "table1"), "profile: got 'embeded', expected one of embed"),
    (lambda: profiles.grid("embedded", "table3"), "table: got 'table3', expected one of table1"),
    (partial(grid, methods=["dora"]), "methods: got 'dora', expected one of head-only, lora, cur"),
    (partial(grid, ranks=[0]), "rank: got 0, expected a whole number of 1 or more"),
    (partial(grid, ranks=[]), r"ranks: got \[\], expected a list"),
    (partial(grid, ranks=8.5), "ranks: got 8.5, expected a list"),
    (partial(grid, ranks="8,x"), "rank: got 'x', expected a whole number of 1 or more"),
    (partial(grid, seeds=[-1]), "seed: got -1, expected a whole number of 0 or more"),
    (partial(grid, seeds=[2**70]), f"seed: got {2**70}, expected one below {2**32}"),
    (partial(grid, protocol=5), "protocol: got '5', expected one of published, corrected"),
    (partial(other, batch=0), "batch: got 0, expected a whole number"),
    (partial(other, profile="../x"), "profile: got '../x', expected letters, digits"),
    (partial(grid, precision="fp8"), "precision: got 'fp8', expected one of fp32, tf32, bf16"),
    (lambda: data.load_task("cola", "train"), "task: got 'cola', expected one of mrpc, sst2, sent"),
    (lambda: data.load_task("sst2", "test"), "part: got 'test', expected one of train, tune, eval"),
    (lambda: TaskSpec("mrpc", 2, 10, -3, 1, None), "eval_rows: got -3, expected a whole number of"),
    (lambda: Protocol.parse("publisht"), "protocol: got 'publisht', expected one of published, c"),
    (lambda: Protocol.parse("published,x=y"), "protocol field: got 'x', expected one of weighting"),
    (lambda: Protocol.parse("corrected,readout=a"), "readout: got 'a', expected one of last-posit"),
    (partial(submit, gpus=-1), "GPUS: got -1, expected a whole number"),
    (partial(submit, at_once=-1), "WORKERS: got -1, expected a whole number"),
    (partial(recipe, schedule="cosine"), "schedule: got 'cosine', expected one of records, steps"),
    (partial(recipe, optimiser="sgd"), "optimiser: got 'sgd', expected one of transformers, torch"),
    (lambda: Recipe(0.1, 0, 1), "epochs: got 0"),
    (lambda: Recipe(float("nan"), 1, 1), "learning_rate: got nan, expected a finite number"),
    (partial(CURLoRAConfig, 0), "rank: got 0"),
    (partial(CURLoRAConfig, 2.0), "rank: got 2.0"),
    (partial(CURLoRAConfig, alpha=float("inf")), "alpha: got inf"),
    (partial(CURLoRAConfig, alpha=10**400), "alpha: got 1000.*expected a finite number"),
    (partial(CURLoRAConfig, target_modules="q_proj("), "is no regular expression"),
    (partial(CURLoRAConfig, target_modules=5), "target_modules: got 5, expected a list of names"),
    (partial(CURLoRAConfig, target_modules=[]), "got an empty list"),
    (partial(CURLoRAConfig, selection="eq5"), "expected a Selection or one of eq4, authors"),
    (partial(CURLoRAConfig, selection=[]), "expected a Selection or one of eq4, authors"),
    (lambda: cur.Selection("leverage"), "inverted, smoothed, uniform, importance"),
    *((partial(select, rank=rank), RANK.format(rank)) for rank in (0, -1, 3, 1.5, True)),
    (partial(lora, 2, init="kaiming"), "init: got 'kaiming', expected one of authors, usual"),
    (partial(lora, 5), "rank: got 5, expected a whole number from 1 to 4"),
    (lambda: CURLoRALinear(torch.nn.Embedding(4, 4), 2), "got Embedding, expected nn.Linear or"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


WORDS = ["--ranks x", "--seeds -1", "--methods dora", "--profile \0", "--protocol é", "--x"]


@pytest.mark.parametrize("words", WORDS)
def test_the_command_line_says_what_is_wrong_before_it_fetches_anything(monkeypatch, capsys, words):
    """In one line beginning with `error:`, or argparse's own."""
    for owner, name in ((fetch, "fetch"), (hub, "folder"), (models, "prepare")):
        monkeypatch.setattr(owner, name, None)
    try:
        status = __main__.main(["reproduce", *words.split()])
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err
    assert status == 2 or (status == 1 and said.startswith("error: ") and said.count("\n") == 1)


ODD = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.text(max_size=8)),
    st.sampled_from(["", "../../etc", "..", "a/b", "\0", "é", "𝔘", "nan", "1e309", 2**70]),
)
JUNK = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def cases(number):
    """So many generated cases, the same each time."""
    aside = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    named = {"derandomize": True, "deadline": None, "database": None}
    return settings(max_examples=number, suppress_health_check=aside, **named)


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


def attempt(call, errors, folder):
    """What `call` returns; None where it raises one of `errors`, and then no file is another."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        return call()
    except errors as error:
        assert len(str(error)) > 10
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


SPEC = small_grid(methods=["curlora"])[0].to_dict()


@cases(80)
@given(spoiled(SPEC))
def test_specs(tmp_path, values):
    spec = attempt(lambda: RunSpec.from_dict(values), ValueError, tmp_path)
    if spec:
        assert RunSpec.from_dict(spec.to_dict()) == spec
        assert set(spec.key) <= set(string.ascii_letters + string.digits + "-")
        inside = records.runs_folder(spec.profile, "/results").resolve()
        assert inside.parent.parent.as_posix() == "/results"


RECORD = dataclasses.asdict(records.RunRecord(SPEC, provenance={"workspace": "w", "commit": None}))


@cases(80)
@given((spoiled(RECORD) | JUNK).map(json.dumps).map(str.encode) | st.binary(max_size=300))
@example(b'{"spec": ' + b"[" * 100_000)
@example(b'{"half": ')
@example(b"9" * 5000)
def test_records(tmp_path, content):
    """Loaded or refused with the file named; to a grid a damaged one is an absent one."""
    spec = RunSpec.from_dict(SPEC)
    path = records.runs_folder(spec.profile, tmp_path) / f"{spec.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    found = attempt(lambda: records.load(path), ValueError, path.parent)
    reused = records.find(spec, tmp_path)
    assert reused is None or reused == found


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@cases(40)
@given((spoiled(INDEX) | JUNK).map(json.dumps) | st.text(max_size=20))
@example(json.dumps({"weight_map": {"a": "../../../etc/passwd"}}))
@example(json.dumps({"weight_map": {"a": "/etc/passwd"}}))
@example(json.dumps({"weight_map": {"a": "shards/../../x"}}))
def test_a_mirrors_index_of_weights(tmp_path, text):
    """Never a file outside the model's folder, whatever the index names."""
    (tmp_path / "model.safetensors.index.json").write_text(text)
    repository = hub.MODELS["mistral-7b"]
    absent = attempt(lambda: hub.missing(repository, tmp_path), fetch.FetchError, tmp_path)
    for name in set(absent or ()) - set(repository.files):
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
