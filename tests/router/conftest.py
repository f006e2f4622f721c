"""One thread; a model, an encoder and routers, made once a session and not to be changed by a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from router import Router, RouterSettings, train_router
from router.classifiers import ClassifierKind
from router.features import FeatureKind
from tests import tiny
from tests.router.encoder import save_encoder
from tests.router.prompts import TASKS, prompts

FINGERPRINT = "a1" * 32
Trained = Callable[[FeatureKind, ClassifierKind], Router]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    # As in tests/conftest.py, for the threads of numpy and scikit-learn.
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny.model("llama")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentence") / "encoder"
    save_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def trained(model: Any, encoder: Path) -> Trained:
    """``trained(features, classifier)``: a router over all three tasks with these kinds alone."""
    made: dict[tuple[str, str], Router] = {}

    def get(features: FeatureKind, classifier: ClassifierKind) -> Router:
        if (features, classifier) not in made:
            settings = RouterSettings(features=(features,), classifiers=(classifier,), encoder=str(encoder))
            labelled = prompts(TASKS, 24)
            made[features, classifier] = train_router(
                model, tiny.tokenizer(), labelled, TASKS, settings, fingerprint=FINGERPRINT
            )[0]
        return made[features, classifier]

    return get
