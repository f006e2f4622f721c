"""The benchmark of alignment: its text and its plot."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from benchmarks.alignment.plot import COLOURS, draw
from benchmarks.alignment.text import LENGTH, VOCABULARY, read_text


def test_text_is_bytes_and_no_piece_is_measured_that_was_trained_on():
    text = read_text(Path("examples/zoo/data"))
    assert len(text.tokenizer) == VOCABULARY
    assert text.tokenizer.decode(text.tokenizer("déjà vu")["input_ids"]) == "déjà vu"
    parts = [{tuple(piece) for piece in part} for part in (text.training, text.calibration, text.heldout)]
    assert all(len(piece) == LENGTH for part in parts for piece in part)
    # Of sentences none is in two parts, but a link or a phrase of 32 bytes may recur.
    assert len(parts[0] & parts[2]) + len(parts[1] & parts[2]) < 5 < 1000 < len(parts[2])


def test_the_plot_shows_the_chosen_line_thick_and_last():
    loss = {name: [1.0, 2.0 + number / 10, 1.5] for number, name in enumerate(COLOURS)}
    facts = {"chosen": "ffn + residual", "share": [0.0, 0.5, 1.0], "loss": loss}
    root = ElementTree.fromstring(draw({"bert": facts, "llama": facts | {"chosen": "plain"}}))
    panels = root.findall("{*}g")
    for panel, chosen, count in zip(panels, ("ffn + residual", "plain"), (7, 6), strict=True):
        lines = [path for path in panel.findall("{*}path") if "line" in path.get("class", "").split()]
        assert len(lines) == count
        assert [path.get("class") for path in lines[:-1]] == ["line"] * (count - 1)
        assert lines[-1].get("class") == "line chosen" and lines[-1].get("stroke") == COLOURS[chosen]
