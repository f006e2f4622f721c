"""Shared set-up: no network, one thread, zoos built once a session."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import trained
from tests.bundles import Zoo, adapter_zoo, full_zoo

# Tiny matrices gain nothing from threads, and waiting threads make a busy machine slower still.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also the long forms of tests under load")


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test is asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Zoo]:
    """``zoo(kind, family)``: kind "full" or "adapter"; not to be changed by a test."""
    made: dict[tuple[str, str], Zoo] = {}

    def get(kind: str, family: str) -> Zoo:
        if (kind, family) not in made:
            folder: Path = tmp_path_factory.mktemp(f"{kind}-{family}")
            made[kind, family] = (full_zoo if kind == "full" else adapter_zoo)(folder, family)
        return made[kind, family]

    return get


@pytest.fixture(scope="session")
def trained_zoo(tmp_path_factory: pytest.TempPathFactory) -> trained.TrainedZoo:
    """Four fine-tunes with real skills, their base and data; not to be changed by a test."""
    return trained.make(tmp_path_factory.mktemp("trained"))
