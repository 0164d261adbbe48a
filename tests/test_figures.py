"""Figures from made-up records: what is drawn is what the records hold."""

import numpy as np
import pytest
from made_records import record, two_seeds

from curlora_lite.replication import figures, profiles, runs


@pytest.fixture
def frame():
    return runs.of_grid(two_seeds())


def lines(ax):
    """Label -> (line, its bars' ends or None) of what was drawn with error bars."""
    return {c.get_label(): (c.lines[0], c.lines[2][0].get_segments() if c.has_yerr else None)
            for c in ax.containers}  # fmt: skip


def test_accuracy_shows_means_and_deviations_over_seeds(frame):
    first, second, third = figures.accuracy(frame, "table1").axes
    mrpc = lines(first)
    assert list(mrpc) == ["Head only", "LoRA-8", "CURLoRA-8"]
    assert mrpc["LoRA-8"][0].get_ydata().tolist() == pytest.approx([0.70, 0.60, 0.40])
    means, bars = mrpc["CURLoRA-8"]
    assert means.get_ydata().tolist() == pytest.approx([0.64, 0.63, 0.63])
    spread = np.std([0.62, 0.66], ddof=1)
    assert bars[0][:, 1].tolist() == pytest.approx([0.64 - spread, 0.64 + spread])
    assert lines(second)["LoRA-8"][0].get_ydata().tolist() == pytest.approx([0.90, 0.80])
    assert lines(third)["LoRA-8"][0].get_ydata().tolist() == pytest.approx([0.92])
    dotted = [line for line in first.lines if line.get_label() == "majority class"]
    assert dotted[0].get_ydata()[0] == 0.68
    assert first.get_title() == "MRPC (n = 100)"


def test_accuracy_of_one_seed_has_wilsons_interval():
    """(p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n), for p = 0.9, n = 100, z = 1.96."""
    spec = profiles.grid("embedded", "table1", ranks=[8], methods=["lora"], precision="fp32")[0]
    made = record(spec, [[0.9], [0.9, 0.9], [0.9, 0.9, 0.9]], (1.0, 1.0))
    panel = figures.accuracy(runs.of_grid([made]), "table1").axes[0]
    _, bars = lines(panel)["LoRA-8"]
    assert bars[0][:, 1].tolist() == pytest.approx([0.8256, 0.9448], abs=1e-4)
    assert panel.get_title() == "MRPC* (n = 100)"


def test_perplexity_is_after_over_before(frame):
    (ax,) = figures.perplexity(frame, "table1").axes
    drawn = lines(ax)
    assert drawn["LoRA-8"][0].get_ydata().tolist() == [3.0]
    assert drawn["CURLoRA-8"][0].get_ydata().tolist() == pytest.approx([1.15])
    assert [text.get_text() for text in ax.texts] == ["1.00", "3.00", "1.15"]
    assert ax.get_yscale() == "log"


def test_growth_is_in_percent_and_of_adapters_alone(frame):
    (ax,) = figures.growth(frame, "table1").axes
    drawn = lines(ax)
    assert list(drawn) == ["LoRA-8", "CURLoRA-8"]
    assert drawn["LoRA-8"][0].get_ydata().tolist() == pytest.approx([2.0, 4.0, 6.0])


def test_methods_and_ranks_are_told_apart_without_colour():
    specs = profiles.grid("smollm2", "table1", precision="fp32")
    made = [record(s, [[0.5], [0.5, 0.5], [0.5, 0.5, 0.5]], (1.0, 1.0)) for s in specs]
    drawn = lines(figures.accuracy(runs.of_grid(made), "table1").axes[0])
    looks = {(line.get_marker(), line.get_fillstyle()) for line, _ in drawn.values()}
    assert len(looks) == len(drawn) == 7


def test_nothing_to_draw(frame):
    with pytest.raises(ValueError, match="no run of table1 finished"):
        figures.growth(frame[frame.status == "diverged"], "table1")


def test_saved_as_png_and_pdf(frame, tmp_path):
    figure = figures.growth(frame, "table1")
    assert figures.save(figure, tmp_path / "made" / "growth") is figure
    first = {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()}
    assert {name: content[:4] for name, content in first.items()} == {
        "growth.png": b"\x89PNG", "growth.pdf": b"%PDF"}  # fmt: skip
    figures.save(figures.growth(frame, "table1"), tmp_path / "again" / "growth")
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()}
