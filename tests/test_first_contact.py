"""First contact with the paper's models: the published perplexity, known ids of known texts."""

import dataclasses

import pytest
import tokenizers
from small_runs import WordTokenizer, small, tiny_llama

from curlora_lite import training
from curlora_lite.replication import data, fetch, grids, hub, models, profiles, records, sequence
from curlora_lite.replication.first_contact import BaseCheckError, check_perplexity

ORIGIN = {"source": "mirror", "repository": "a/b", "revision": None}
PUBLISHED = [("gpt2-large", "table2", 28.25), ("mistral-7b", "table1", 5.44)]


def checked(spec, perplexity):
    """What the record says of the check, if it was made and let the run go on."""
    loaded = models.Loaded(None, "words", "s" * 64, {}, ORIGIN)
    record = records.RunRecord({}, data={"text": {"eval": "t" * 64}})
    record.perplexity["initial"] = {"perplexity": perplexity}
    check_perplexity(spec, loaded, record)
    return record.perplexity.get("published", {}).get("check")


@pytest.mark.parametrize(("name", "table", "published"), PUBLISHED)
def test_the_perplexity_before_training_is_the_published_one(name, table, published):
    spec = profiles.grid(name, table)[0]
    assert {checked(spec, published + off) for off in (-0.0199, 0, 0.0199)} == {"met"}
    said = rf"perplexity .*published {published} [^$]*model: a/b[^$]*tokenizer: 5[^$]*sha256 ttt"
    for off in (-0.0201, 0.0201, float("inf")):
        with pytest.raises(ValueError, match=said):
            checked(spec, published + off)
    assert checked(dataclasses.replace(spec, precision="bf16"), published * 1.0199) == "met"
    # of another text or window nothing was published
    for other in ({"text_tokens": 255}, {"text_window": 128}, {"source": "embedded"}):
        assert checked(dataclasses.replace(spec, **other), published + 1) is None


def test_a_run_on_other_weights_stops_before_it_trains(tiny, monkeypatch):
    spec = profiles.grid("gpt2-large", "table2", methods=["head-only"])[0]
    spec = small(spec, text_tokens=256, text_window=256, max_length=16)
    monkeypatch.setattr(WordTokenizer, "__len__", lambda self: 64, raising=False)
    loaded = models.Loaded(tiny_llama(), WordTokenizer(), "", {}, ORIGIN)
    monkeypatch.setattr(models, "load", lambda *_: loaded)
    monkeypatch.setattr(data, "origins", lambda source: [])
    monkeypatch.setattr(data, "load_text", lambda part, source: "the news of the day " * 60)
    with monkeypatch.context() as context, pytest.raises(BaseCheckError):
        context.setattr(training, "train_task", None)
        sequence.run(spec)
    monkeypatch.setenv("CURLORA_BASE_CHECK", "0")
    (record,) = grids.run_grid([spec], tiny, workers=1)
    assert record.perplexity["published"]["check"] == "not met, BASE_CHECK=0"
    monkeypatch.setattr(models, "sha256", lambda name: "")
    assert grids.reusable(spec, tiny, own=True) == record
    monkeypatch.delenv("CURLORA_BASE_CHECK")  # else it is asked once more
    with pytest.raises(BaseCheckError):
        grids.run_grid([spec], tiny, own=True, workers=1)


@pytest.mark.parametrize("legacy", [True, False])
def test_texts_that_begin_with_a_space_lose_no_token(monkeypatch, tmp_path, legacy):
    """A space stands before each text, one that has one too: so the legacy kind of file says it."""
    bpe = tokenizers.models.BPE({"▁": 0, "a": 1, "▁a": 2, "<s>": 3}, [("▁", "a")])
    made = tokenizers.Tokenizer(bpe)
    spaces = [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    first = tokenizers.pre_tokenizers.Metaspace("▁", "first", False)
    kind = (tokenizers.normalizers.Sequence(spaces), None) if legacy else (None, first)
    made.normalizer, made.pre_tokenizer = kind
    folder = tmp_path / "mistralai" / "Mistral-7B-v0.3"
    tiny_llama().save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
    monkeypatch.setattr(hub, "missing", lambda repository: [])
    monkeypatch.setenv("CURLORA_MIRROR", str(tmp_path))
    monkeypatch.setitem(fetch.SOURCES["tokens"], "mistral-7b", {" a a": [0, 2, 2], "a": [2]})
    models.load.cache_clear()
    assert ("tokenizer" in models.load("mistral-7b").origin) != legacy  # mended
    models.load.cache_clear()
    monkeypatch.setitem(fetch.SOURCES["tokens"], "mistral-7b", {"a": [1]})
    with pytest.raises(fetch.FetchError, match=r"gives 'a' the ids \[2\], expected \[1\]"):
        models.load("mistral-7b")
