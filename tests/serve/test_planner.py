"""When mixtures are composed, and which copies are kept."""

from __future__ import annotations

import pytest
import torch

from serve.mixture import MixtureModel
from serve.planner import Planner


@pytest.fixture
def mixture(zoo):
    return MixtureModel.load(zoo("full", "llama").bundle, dtype=torch.float32)


A, B, ZERO = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)


def run(planner, rows, tokens):
    before = dict(planner.passes)
    with planner.apply(rows, tokens):
        pass
    return next(kind for kind, count in planner.passes.items() if count > before[kind])


def test_composed_once_it_has_repaid_itself(mixture):
    planner = Planner(mixture, copies=1)
    repaid = mixture.tokens_to_repay()
    assert run(planner, [A], int(repaid) - 1) == "factored"
    assert planner.composed_bytes == 0
    assert run(planner, [A, A], 2) == "composed"
    assert planner.composed_bytes == mixture.parameter_bytes


def test_different_mixtures_are_factored_and_nothing_is_plain(mixture):
    planner = Planner(mixture, copies=1, mode="composed")
    assert run(planner, [A, B], 1000) == "factored"
    assert run(planner, [ZERO, ZERO], 1000) == "plain"


def test_rivals_for_the_last_copy_take_turns_not_every_step(mixture, monkeypatch):
    planner = Planner(mixture, copies=1)
    made = []
    compose = mixture.compose
    monkeypatch.setattr(mixture, "compose", lambda g: made.append(g) or compose(g))
    for _ in range(40):
        for row in (A, B):
            run(planner, [row], int(mixture.tokens_to_repay() // 4))
    assert {A, B} == set(made) and len(made) <= 80 // 4
    assert planner.composed_bytes == mixture.parameter_bytes


def test_pinned_copies_are_made_at_once_and_stay(mixture):
    planner = Planner(mixture, copies=0)
    planner.pin(A)
    assert run(planner, [A], 1) == "composed"
    assert run(planner, [B], 10**6) == "factored"
    assert planner.composed_bytes == mixture.parameter_bytes


def test_factored_mode_never_composes(mixture):
    planner = Planner(mixture, copies=3, mode="factored")
    planner.pin(A)
    assert run(planner, [A], 10**6) == "factored"
    assert planner.composed_bytes == 0
