"""Sentence features: mean pooling of a real, if tiny, BERT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from compress.errors import InputError
from router.features.sentence import BATCH, TOKENS, SentenceFeatures
from router.query import Turn, clip
from tests.router.encoder import save_encoder

TEXTS = ["hello you", "a", "sort the words please", "1 2 3 4 5 6 7 8 9", "?", "b " * 1000]


def extract(encoder: Path, model: Any, texts: list[str]) -> np.ndarray:
    return SentenceFeatures(str(encoder)).extract(model, [Turn(text, ()) for text in texts])


def test_equal_to_a_loop_over_tokens(model: Any, encoder: Path) -> None:
    tokenizer, bert = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    found = extract(encoder, model, TEXTS)
    assert found.dtype == np.float32 and found.shape == (len(TEXTS), 16)
    for row, text in zip(found, TEXTS, strict=True):
        ids = clip(tokenizer(text)["input_ids"], TOKENS)
        with torch.no_grad():
            states = bert(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        total = np.zeros(16)
        for state in states:
            total += state
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-5)


def test_texts_that_differ_differ(model: Any, encoder: Path) -> None:
    found = extract(encoder, model, TEXTS)
    likeness = found @ found.T - np.eye(len(TEXTS))
    assert likeness.max() < 0.999


def test_a_row_is_the_same_alone_and_in_any_batch(model: Any, encoder: Path) -> None:
    texts = [f"number {index} " * (1 + index % 4) for index in range(BATCH + 3)]
    together = extract(encoder, model, texts)
    assert together.shape == (len(texts), 16)
    for index in (0, 3, BATCH - 1, BATCH, BATCH + 2):
        np.testing.assert_allclose(together[index], extract(encoder, model, [texts[index]])[0], atol=1e-5)


def test_only_the_device_of_the_served_model_matters(model: Any, encoder: Path) -> None:
    other = torch.nn.Linear(2, 2)
    np.testing.assert_array_equal(extract(encoder, other, TEXTS), extract(encoder, model, TEXTS))
    assert not SentenceFeatures.needs_model


def test_progress_ends_at_the_total_and_no_turns_are_no_rows(model: Any, encoder: Path) -> None:
    seen: list[tuple[int, int]] = []
    features = SentenceFeatures(str(encoder))
    features.extract(model, [Turn("a", ())] * (BATCH + 1), lambda *now: seen.append(now))
    assert seen == [(BATCH, BATCH + 1), (BATCH + 1, BATCH + 1)]
    assert features.extract(model, []).shape == (0, 16)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(AutoModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    weights.unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def other_sizes(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": 32'))


@pytest.mark.parametrize(
    "damage",
    [
        no_weights,
        pickled_weights,
        broken_config,
        cut_weights,
        other_sizes,
    ],
)
def test_an_encoder_that_cannot_be_loaded_is_refused(
    model: Any, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save_encoder(tmp_path / "bad")
    damage(tmp_path / "bad")
    with pytest.raises(InputError, match=r"sentence encoder '.*bad' cannot be loaded") as caught:
        extract(tmp_path / "bad", model, ["a"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/has-this", ""])
def test_an_encoder_that_is_not_there_is_refused(model: Any, name: str) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        SentenceFeatures(name).extract(model, [Turn("a", ())])


def test_a_text_longer_than_the_encoders_positions_is_clipped(model: Any, tmp_path: Path) -> None:
    save_encoder(tmp_path / "short", max_position_embeddings=64)
    assert extract(tmp_path / "short", model, ["b " * 1000]).shape == (1, 16)
