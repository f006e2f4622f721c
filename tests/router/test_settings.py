"""Settings: defaults that work, one name or several, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from compress.errors import InputError
from router import Policy, RouterRecipe, RouterSettings
from router.features import FEATURE_KINDS
from router.features.embedding import EmbeddingFeatures
from router.features.hidden import HiddenStateFeatures
from router.features.sentence import SentenceFeatures
from router.features.tfidf import TfidfFeatures


def test_one_name_is_a_list_of_one() -> None:
    settings = RouterSettings(features="tfidf", classifiers="mlp")  # type: ignore[arg-type]
    assert settings.features == ("tfidf",) and settings.classifiers == ("mlp",)
    assert RouterSettings(features=["hidden", "tfidf"]).features == ("hidden", "tfidf")  # type: ignore[arg-type]


def test_settings_reach_their_features() -> None:
    settings = RouterSettings(features=FEATURE_KINDS, layer=3, pooling="last", encoder="some/encoder")
    assert settings.extractor("hidden") == HiddenStateFeatures(layer=3, pooling="last")
    assert settings.extractor("sentence") == SentenceFeatures("some/encoder")
    assert settings.extractor("embedding") == EmbeddingFeatures()
    assert settings.extractor("tfidf") == TfidfFeatures()


def test_settings_reach_the_policy() -> None:
    chosen = {"threshold": 0.3, "top_k": 3, "certain": 0.8, "temperature": 0.7, "total": 0.9}
    assert RouterSettings(**chosen).policy() == Policy(**chosen)  # type: ignore[arg-type]
    assert RouterSettings().policy() == Policy()


def test_a_recipe_is_settings_and_a_file_of_prompts() -> None:
    recipe = RouterRecipe(prompts="p.jsonl", seed=3, features="tfidf")  # type: ignore[arg-type]
    assert recipe.prompts == "p.jsonl"
    assert recipe.settings() == RouterSettings(seed=3, features=("tfidf",))


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"features": []}, "features"),
        ({"features": "words"}, "features"),
        ({"classifiers": ["logistic", "forest"]}, "classifiers"),
        ({"classifiers": []}, "classifiers"),
        ({"features": "sentence"}, "need an encoder"),
        ({"features": ["tfidf", "sentence"], "encoder": ""}, "need an encoder"),
        ({"layer": 0}, "layer"),
        ({"pooling": "max"}, "pooling"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"history": -0.1}, "history"),
        ({"history": 1.1}, "history"),
        ({"sticky": -0.1}, "sticky"),
        ({"sticky": 1.1}, "sticky"),
        ({"top_k": 0}, "top_k"),
        ({"threshold": 2}, "threshold"),
        ({"certain": 2}, "certain"),
        ({"temperature": 0}, "temperature"),
        ({"total": 0}, "total"),
        ({"false_rejection": 1}, "false_rejection"),
        ({"seed": -1}, "seed"),
        ({"depth": 3}, "depth"),
    ],
)
def test_refusals(bad: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        RouterSettings(**bad)


def test_the_fall_back_is_the_pretrained_base_where_there_is_one() -> None:
    assert RouterSettings().settled(pretrained=True).policy().fallback == "base"
    assert RouterSettings().settled(pretrained=False).policy().fallback == "shared"
    assert RouterSettings(fallback="shared").settled(pretrained=True).policy().fallback == "shared"
    assert RouterSettings().policy().fallback == "shared"
    with pytest.raises(InputError, match=r"router\.fallback: base: this bundle's base is the merge"):
        RouterSettings(fallback="base").settled(pretrained=False)
