"""What pages say in their sentences: each number from the committed records, each claim held."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from curlora_lite import metrics
from curlora_lite.replication import paper, profiles, records, runs

USUAL, STEPS = "LoRA-16, lora_init=usual", "LoRA-16, schedule=steps"
FIXED, EVEN, PRICE, SEEDS = ", corrected", runs.BALANCED, ["gain", "ratio"], (0, 1, 2)
PUT_RIGHT = "LoRA-16" + FIXED, "CURLoRA-16" + FIXED


@pytest.fixture(scope="module")
def frames(committed):
    """`audit`: a row a run, by condition; `smollm2`: of seed 0; `more`: of others.

    every, papers: of all seeds on the paper's data, and means; gain, learned: over head only of
    the same seed. rows: the tidy frames.
    """
    rows = {name: runs.frame(name, committed) for name in ("audit", "smollm2")}
    rows["audit"] = rows["audit"][rows["audit"].table == "table1"]
    made = {name: runs.summary(frame) for name, frame in rows.items()}
    for frame in made.values():
        frame.index = (frame.label + ", " + frame.protocol).str.replace(", published", "")
        frame.sort_values("seed", inplace=True)
    every = made["smollm2"]
    head = every.loc[["Head only"]].set_index("seed")[["acc", "just_learned"]]
    every[["gain", "learned"]] = every[[*head]] - head.loc[every.seed].values
    papers = every.groupby(level=0).mean(numeric_only=True)
    papers["ratio"] = np.exp(papers.nats)
    made["smollm2"], made["more"] = every[every.seed == 0], every[every.seed > 0]
    return SimpleNamespace(**made, papers=papers, every=every, rows=rows)


def less(frames, measure, first, second):
    return metrics.paired(frames.audit[measure][first], frames.audit[measure][second])


def gain(frames, name):
    head = "Head only" + FIXED * name.endswith(FIXED)
    return less(frames, "acc", name, head)


def ratios(frames, *names):
    return [np.exp(frames.audit.nats[name].mean()) for name in names]


def ranks(method):
    return [f"{method}-{rank}" for rank in paper.RANKS]


def span(values):
    return min(values), max(values)


def at_the_end(frames, task, *labels, seeds=(0,)):
    """Accuracies on the paper's data after the last stage, in the order of seeds."""
    rows = frames.rows["smollm2"].query("measure == 'accuracy' and stage == 3 and seed in @seeds")
    rows = rows[(rows.task == task) & (rows.protocol == "published")].sort_values("seed")
    return rows.value[rows.label.isin(labels or rows.label)]


def by_head(frames, task):
    return at_the_end(frames, task, "Head only", seeds=SEEDS)


def majority(frames, profile, task):
    rows = frames.rows[profile]
    return rows[(rows.measure == "accuracy") & (rows.task == task)].majority.iloc[0]


def sizes(frames):
    tasks = profiles.profile_named("audit").tables["table1"].tasks
    rows = frames.rows["audit"]
    scored = rows[rows.measure == "accuracy"].groupby("task").n.first()
    return (*(task.train_rows for task in tasks), *(scored[task.name] for task in tasks))


def broken(table):
    """How many times perplexity grows with LoRA of each rank, as published."""
    return [row[-1] / row[0] for (m, _), row in paper.PUBLISHED[table].items() if m == "lora"]


def smaller(frames):
    drawn = less(frames, "norm", "CURLoRA-16, weighting=inverted", "CURLoRA-16")
    return [-100 * drawn.mean / frames.audit.norm["CURLoRA-16"].mean()]


def beside(frames):
    """ACC of head only, and of the majority class."""
    constant = [majority(frames, "audit", task) for task in ("mrpc", "sst2", EVEN)]
    return frames.audit.acc["Head only"].mean(), np.mean(constant)


# page -> {what its sentence says: the numbers for the braces, from the frames}
FACTS = {
    "README.md": {
        "leaves perplexity at ×{:.2f}": lambda f: [f.papers.ratio["CURLoRA-16"]],
        "LoRA-16 forgets {:.2f} in": lambda f: [f.smollm2.forgetting["LoRA-16"]],
        "LoRA-16 ends {:.2f} above it": lambda f: [f.papers.gain["LoRA-16"]],
        "grows ×{:.2f} instead of ×{:.2f} (the": lambda f: f.papers.ratio[[USUAL, "LoRA-16"]],
        "in data: ×{:.2f} instead of ×{:.2f})": lambda f: ratios(f, USUAL, "LoRA-16"),
        "the paper's ×{:,.0f}, on": lambda f: [round(broken("table1")[1], -3)],
        "24 ends {:.2f} above the head at ×{:.2f}": lambda f: f.papers.loc["CURLoRA-24", PRICE],
        "initialisation {:.2f} above it at ×{:.2f}": lambda f: f.papers.loc[USUAL, PRICE],
    },
    "results/audit/README.md": {
        "ends {:.3f} above one": lambda f: [gain(f, "CURLoRA-16").mean],
        "five seeds ({:+.3f} to {:+.3f})": lambda f: gain(f, "CURLoRA-16")[1:3],
        "ends {:.3f} above ({:.3f} to {:.3f}), two": lambda f: gain(f, "CURLoRA-16" + FIXED)[:3],
        "usual initialisation ends {:.3f} above": lambda f: [gain(f, USUAL).mean],
        "grows ×{:.2f} instead of ×{:.2f}": lambda f: ratios(f, USUAL, "LoRA-16"),
        "data it is ×{:.2f} instead of ×{:.2f} (": lambda f: f.papers.ratio[[USUAL, "LoRA-16"]],
        "CURLoRA-16 stays at ×{:.2f}": lambda f: ratios(f, "CURLoRA-16"),
        "closer, to ×{:.2f} and ×{:.2f}": lambda f: ratios(f, *PUT_RIGHT),
        "grows ×{:.0f} instead of ×{:.2f}, but": lambda f: ratios(f, STEPS, "LoRA-16"),
        "grows ×{:,.0f} to ×{:,.0f}; ": lambda f: np.round(span(broken("table1")), -3),
        "learns {:.3f} more than CURLoRA and loses {:.2f} nats more": lambda f: [
            less(f, measure, USUAL, "CURLoRA-16").mean for measure in ("just_learned", "nats")
        ],
        "LoRA-16 learns {:.2f} beyond the head, ": lambda f: [f.papers.learned["LoRA-16"]],
        "loses {:.2f} on the two earlier": lambda f: [f.smollm2.forgetting["LoRA-16"]],
        "seed and {:.2f} at most": lambda f: [f.more.forgetting["LoRA-16"].max()],
        "and ends {:.2f} above the head": lambda f: [f.papers.gain["LoRA-16"]],
        "CURLoRA-24 learns {:.2f} and": lambda f: [f.papers.learned["CURLoRA-24"]],
        "the update {:.0f} % smaller": smaller,
        "bare head scores {:.2f} to {:.2f} on": lambda f: span(by_head(f, "sentiment140")),
        "and {:.2f} to {:.2f} where half": lambda f: span(by_head(f, EVEN)),
        "ends at {:.2f} so, the majority class at {:.2f}": beside,
        "losing {:.2f} doubles it": lambda f: [np.log(2)],
        "Training has {}, {} and {} rows of the three tasks. Scoring has {}, {} and {}": sizes,
    },
    "results/smollm2/README.md": {
        "stays at ×{:.2f} to ×{:.2f}": lambda f: span(f.smollm2.ratio[ranks("CURLoRA")]),
        "ends at ×{:.2f} to ×{:.2f}": lambda f: span(f.smollm2.ratio[ranks("LoRA")]),
        "At rank 24 it is {:.2f} above": lambda f: [f.smollm2.gain["CURLoRA-24"]],
        "it has {:.2f} to {:.2f}, head": lambda f: span(f.smollm2.just_learned[ranks("LoRA")]),
        "only {:.2f} (means": lambda f: [f.smollm2.just_learned["Head only"]],
        "forgets {:.2f} to {:.2f} on": lambda f: span(f.smollm2.forgetting[ranks("LoRA")]),
        "it ends at {:.2f} to {:.2f}, CUR": lambda f: span(f.smollm2.acc[ranks("LoRA")]),
        "LoRA at {:.2f} to {:.2f}": lambda f: span(f.smollm2.acc[ranks("CURLoRA")]),
        "all methods score {:.2f} to {:.2f}": lambda f: span(at_the_end(f, "sentiment140")),
        "There LoRA has {:.2f} to {:.2f}": lambda f: span(at_the_end(f, EVEN, *ranks("LoRA"))),
        "head only and CURLoRA stay at {:.2f} to {:.2f}": (
            lambda f: span(at_the_end(f, EVEN, "Head only", *ranks("CURLoRA")))
        ),
        "LoRA's from ×3.06 to ×{:.2f}": lambda f: [f.smollm2.ratio["LoRA-16"]],
        "(×{:.2f} to ×{:.2f})": lambda f: span(f.every.ratio[["LoRA-16"]]),
        "one seed of the three: {:.2f}, ": lambda f: [f.smollm2.forgetting["LoRA-16"]],
        "then is ×{:.2f}": lambda f: [f.smollm2.ratio[USUAL]],
        "and accuracy at the end {:.2f}": lambda f: [f.smollm2.acc[USUAL]],
        "keeps perplexity (×{:.2f})": lambda f: [f.papers.ratio["CURLoRA-16"]],
        "at most ×{:.2f})": lambda f: [f.more.ratio[["CURLoRA-24"]].max()],
        "rank 24 {:.2f} and {:.2f} above it": lambda f: f.more.gain[["CURLoRA-24"]],
        "doubles (×{:.2f} and ×{:.2f})": lambda f: f.more.ratio[["LoRA-16"]],
        "head only has {:.2f}, {:.2f} and {:.2f}": lambda f: by_head(f, "sentiment140"),
        "a constant answer has {:.2f}": lambda f: [majority(f, "smollm2", EVEN)],
        "move the weights by {:.1f} %": lambda f: [100 * f.smollm2.norm["CURLoRA-16"]],
        "CURLoRA adds {:.1f} % to it": lambda f: [100 * (f.smollm2.ratio["CURLoRA-16"] - 1)],
        "majority class, {:.2f}": lambda f: [majority(f, "smollm2", "mrpc")],
    },
}
# Pages of which every number in a sentence is a fact, or one of these: names, settings, bounds
# that an assertion below holds.
COMPLETE = ["results/audit/README.md", "results/smollm2/README.md"]
NAMES = [
    r"SmolLM2-135M(-Instruct)?|Mistral-7B(-v0\.3)?|\b7B model|(CUR)?LoRA-\d+|SST-2|GPT-2",
    r"Sentiment140|WikiText-2|Table \d|Eq\. \d|[Qq]uestion \d|\*\*\d\. |95 %|[Ss]eed 0|sha256",
    r"[Rr]anks \d+ and \d+|[Rr]ank \d+|576 columns|Mistral's 4,096|first 512 positive|version \d",
    r"within 0\.0\d of head only|more than 0\.0[13] above|neither forgets 0\.02|[Ss]eeds 0 to 2",
]


def sentences(page):
    """A page without tables, code, pictures, targets of links and comments, on one line."""
    text = re.sub(r"<!-- ([\w-]+/\w+) -->.*?<!-- /\1 -->|```.*?```", "", page, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "!["))]
    return re.sub(r"\]\([^)]*\)|`[^`]*`", "]", " ".join(lines))


@pytest.mark.parametrize(
    ("page", "what"), [(page, what) for page, facts in FACTS.items() for what in facts]
)
def test_a_number_in_a_sentence_is_what_the_records_give(frames, page, what):
    said = what.format(*FACTS[page][what](frames))
    assert said in sentences((records.ROOT / page).read_text())


@pytest.mark.parametrize("page", COMPLETE)
def test_no_number_in_a_sentence_is_without_a_fact(frames, page):
    text = sentences((records.ROOT / page).read_text())
    for what, numbers in FACTS[page].items():
        text = text.replace(what.format(*numbers(frames)), "")
    left = re.sub("|".join(NAMES), "", text)
    assert re.findall(r".{0,30}\d.{0,30}", left) == []


def test_what_the_audits_page_says_beyond_what_its_notebook_asserts(frames):
    assert less(frames, "nats", "LoRA-16", "CURLoRA-16").low > 0.4  # far better
    assert {round(times, 1) for times in broken("table2")} <= {1.5, 1.6}  # by half
    acc = frames.every.acc
    assert (acc[USUAL].values > acc["LoRA-16"].values).tolist() == [True, False, False]
    for task, seed in [(task, seed) for task in ("sentiment140", EVEN) for seed in SEEDS]:
        assert np.ptp(at_the_end(frames, task, "Head only", "CURLoRA-16", seeds=[seed])) < 0.02
    rows = frames.rows["audit"].query("measure == 'accuracy' and task == 'mrpc' and stage == 3")
    means = rows.groupby(["label", "protocol"]).value.mean()
    assert means.max() - rows.majority.iloc[0] < 0.01  # on the stand-in of MRPC


def test_what_the_page_on_the_papers_data_says_without_numbers(frames):
    runs_of = frames.smollm2
    assert (runs_of.forgetting[ranks("CURLoRA")] <= 0).all()  # loses nothing
    assert (runs_of.forgetting[ranks("LoRA")] > 0.05).all()
    for label in ("CURLoRA-8", "CURLoRA-16"):
        assert 0 < frames.papers.gain[label] < 0.02
    assert round(runs_of.norm["LoRA-16"], 3) == round(runs_of.norm["CURLoRA-16"], 3)
    assert 2.9 < runs_of.ratio["LoRA-16"] < 3.2  # triples
    mrpc = at_the_end(frames, "mrpc", seeds=SEEDS)
    assert mrpc.max() < majority(frames, "smollm2", "mrpc") + 0.03
    published = {cell: np.mean(row[4:7]) for cell, row in paper.PUBLISHED["table1"].items()}
    assert all(published["curlora", r] - published["lora", r] > 0.2 for r in paper.RANKS)
    assert len(runs_of) == 8 and len(frames.more) == 2 * 5
    assert frames.more.forgetting.drop(USUAL).max() < 0.02
    assert frames.every.gain[["CURLoRA-16"]].between(0, 0.02).all()
    ahead = frames.every.acc["LoRA-16"].values - frames.every.acc["CURLoRA-16"].values
    assert 0 < ahead[0] < min(ahead[1:])
    assert (at_the_end(frames, EVEN, "LoRA-16", seeds=SEEDS) > 0.6).tolist() == [True, False, True]
