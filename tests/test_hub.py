"""The paper's own data from a mirror on disk, and the hub's refusals from a server on loopback."""

import http.server
import json
import os
import threading
import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from curlora_lite.replication import data, fetch, hub, paper
from curlora_lite.replication.protocol import Protocol

PUBLISHED, CORRECTED = Protocol.parse("published"), Protocol.parse("corrected")


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror in the hub's layout; Sentiment140's train split sorted by label, as it really is."""
    root = tmp_path / "mirror"
    for split, marks in (("train", [1, 0, 1] * 3), ("validation", [1] * 4)):
        n = len(marks)
        pairs = {"sentence1": [f"a{i}" for i in range(n)], "sentence2": ["b"] * n}
        write(root / f"nyu-mll/glue/mrpc/{split}-0.parquet", **pairs, label=marks)
        write(root / f"nyu-mll/glue/sst2/{split}-0.parquet", sentence=["s"] * n, label=[0] * n)
    last = {"sentence": ["last"], "label": [1]}
    write(root / "nyu-mll/glue/sst2/train-1.parquet", **last)
    sentiment = root / "stanfordnlp/sentiment140/sentiment140"
    texts = [f"t{i}" for i in range(10)]
    write(sentiment / "test/0000.parquet", text=texts, sentiment=[4, 2, 0, 4, 2] * 2)
    texts, marks = [f"{side}{i}" for side in "np" for i in range(30)], [0] * 30 + [4] * 30
    write(sentiment / "train/0000.parquet", text=texts, sentiment=marks)
    texts = ["", "= One =\n", "", "two\n"]
    write(root / "Salesforce/wikitext/wikitext-2-raw-v1/test-0.parquet", text=texts)
    monkeypatch.setenv("CURLORA_MIRROR", str(root))
    monkeypatch.setattr(hub, "PINNED", {})
    hub._rows.cache_clear()
    yield root
    hub._rows.cache_clear()


def rows(task, part, number=None, protocol=None):
    return data.load_task(task, part, number, protocol=protocol, source="paper")


def labels(part, protocol, number=None):
    return rows("sentiment140", part, number, protocol)["label"]


def test_published_labels_make_neutral_negative(mirror):
    assert labels("train", PUBLISHED) == [1, 0, 0, 1, 0] * 2  # sentiment 4, 2, 0, 4, 2
    assert labels("train", CORRECTED) == [2, 1, 0, 2] * 2  # every fifth row is kept aside
    assert labels("held-out", CORRECTED) == [1, 1]
    assert labels("held-out", PUBLISHED) == [2, 1, 0, 2, 1] * 2  # three classes all the same


def test_published_evaluation_is_all_negative(mirror):
    assert set(labels("eval", PUBLISHED, 20)) == {0}
    assert Counter(labels("eval", CORRECTED, 20)) == {0: 10, 2: 10}
    held_out = Protocol.parse("corrected,sentiment_eval=held-out")
    assert labels("eval", held_out) == [1, 1]


def test_pairs_and_text(mirror):
    assert rows("mrpc", "train", 3).to_list()[2] == {"text": "a2", "pair": "b", "label": 1}
    assert data.load_text("eval", "paper") == "= One =\ntwo\n"


def test_shards_are_read_in_the_order_of_their_names(mirror):
    assert rows("sst2", "train")["text"] == ["s"] * 9 + ["last"]


def test_rates_are_chosen_on_rows_that_nothing_else_reads(mirror, monkeypatch):
    """The first 4 and 9 are trained on, the first 26 of each side scored."""
    monkeypatch.setattr(paper, "TRAIN_ROWS", {"table1": {"mrpc": 4, "sst2": 9}})
    monkeypatch.setattr(paper, "EVAL_ROWS", {"sentiment140": 26})
    assert rows("mrpc", "tune")["text"] == ["a4", "a5", "a6", "a7", "a8"]
    assert rows("sst2", "tune").to_list() == [{"text": "last", "pair": None, "label": 1}]
    both = rows("sentiment140", "tune", 6, CORRECTED)
    assert both["text"] == ["n26", "p26", "n27", "p27", "n28", "p28"]
    assert both["label"] == [0, 2] * 3
    assert data.load_text("tune", "paper") == "=\ntwo\n"  # six of twelve characters


def test_a_mirror_without_a_file(mirror):
    (mirror / "nyu-mll/glue/sst2/validation-0.parquet").unlink()
    with pytest.raises(fetch.FetchError, match=r"the mirror lacks .*sst2/validation-\*.parquet"):
        rows("sst2", "eval")


def test_other_content_than_the_pinned(mirror, monkeypatch):
    expected = hub._digest("sst2", "train", hub._rows("sst2", "train"))
    monkeypatch.setattr(hub, "PINNED", {"sst2/train": expected})
    hub._rows.cache_clear()
    assert len(rows("sst2", "train")) == 10
    write(mirror / "nyu-mll/glue/sst2/train-1.parquet", sentence=["x"], label=[0])
    hub._rows.cache_clear()
    with pytest.raises(fetch.FetchError, match=f"expected {expected}"):
        rows("sst2", "train")


def test_origin_says_the_revision_where_the_mirror_knows_it(mirror):
    glue = hub.DATASETS[0]
    assert hub.origin(glue)["revision"] is None
    notes = mirror / "nyu-mll/glue/.cache/huggingface/download/mrpc"
    notes.mkdir(parents=True)
    (notes / "train-0.parquet.metadata").write_text("abc123\netag\n1.0\n")
    found = {"source": "mirror", "repository": "nyu-mll/glue", "revision": "abc123"}
    assert hub.origin(glue) == found


def test_a_download_with_a_shard_missing_is_not_whole(tmp_path):
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", *names[:2]):
        (tmp_path / name).write_text("{}")
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert hub.missing(hub.MODELS["mistral-7b"], tmp_path) == [names[2]]
    (tmp_path / names[2]).write_text("{}")
    assert hub.missing(hub.MODELS["mistral-7b"], tmp_path) == []


def test_weights_are_named_by_the_files_that_are_read(tmp_path):
    """A copy of Mistral's whole repository holds the weights a second time, in one file."""
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / name).write_text(name)
    before = hub.weights_sha256(tmp_path, hub.MODELS["mistral-7b"].files)
    (tmp_path / "consolidated.safetensors").write_text("the same again")
    assert hub.weights_sha256(tmp_path, hub.MODELS["mistral-7b"].files) == before
    assert hub.weights_sha256(tmp_path) != before
    (tmp_path / "model-2.safetensors").write_text("other weights")
    assert hub.weights_sha256(tmp_path, hub.MODELS["mistral-7b"].files) != before


TEST_MIRROR = os.environ.get("CURLORA_TEST_MIRROR")


@pytest.mark.skipif(not TEST_MIRROR, reason="needs a copy of the data sets: make test MIRROR=DIR")
def test_what_the_real_data_are(monkeypatch):
    """Counts from the specification; rows that are read are checked against `PINNED` on the way."""
    monkeypatch.setenv("CURLORA_MIRROR", TEST_MIRROR)
    hub._rows.cache_clear()
    assert {mark for _, mark in hub._rows("sentiment140", "eval")[:1024]} == {0}
    assert Counter(labels("eval", PUBLISHED, 1024)) == {0: 1024}
    marks = Counter(mark for _, mark in hub._rows("sentiment140", "train"))
    assert marks == {0: 177, 2: 139, 4: 182}
    assert Counter(labels("eval", CORRECTED, 1024)) == {0: 512, 2: 512}
    for task, n, majority in (("mrpc", 408, 279), ("sst2", 872, 444)):
        marks = rows(task, "eval")["label"]
        assert (len(marks), max(Counter(marks).values())) == (n, majority)
    for task, part in hub.TABLES:
        assert hub._rows(task, part)
    for task, n in paper.EVAL_ROWS.items():
        assert len(rows(task, "tune", n, CORRECTED)) == n
    hub._rows.cache_clear()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every question with one status and the hub's own error header."""

    def do_GET(self):
        self.send_response(self.server.status)
        if self.server.code:
            self.send_header("X-Error-Code", self.server.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def said(monkeypatch, tmp_path):
    """What fetching Mistral from such an address says."""

    def ask(endpoint, token=""):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(fetch.FetchError, match="^mistralai/Mistral-7B-v0.3") as caught:
            hub.folder(hub.MODELS["mistral-7b"])
        assert "hf_secret" not in str(caught.value)
        return str(caught.value)

    monkeypatch.delenv("CURLORA_MIRROR", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return ask


REFUSALS = [
    (401, "GatedRepo", "", "is gated. There is no token: ask for access at https://"),
    (403, "GatedRepo", "hf_secret", "is gated. The token in use has no grant: ask for access"),
    (404, "RepoNotFound", "", "Repository Not Found for url: http"),
    (404, "RevisionNotFound", "", "Revision Not Found for url: http"),
    (403, None, "", "the hub answered: 403 Forbidden"),
]


@pytest.mark.parametrize(("status", "code", "token", "message"), REFUSALS)
def test_the_hubs_refusals(said, status, code, token, message):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.status, server.code = status, code
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert message in said(f"http://127.0.0.1:{server.server_port}", token)
        server.shutdown()


def test_a_hub_that_cannot_be_reached(said, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's own tries
    message = said("http://127.0.0.1:9")
    assert "the hub cannot be reached from here" in message and "MIRROR=DIR" in message
