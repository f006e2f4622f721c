"""Evolver's searches, cut off anywhere, end in the bytes of an uninterrupted one."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from compress.fitness import History
from compress.population import Population
from tests.evolving import MERGED, Distance, digest, make_models, recipe, run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("merge", [None, MERGED])
def test_an_interrupted_search_ends_as_an_uninterrupted_one(models, tmp_path, monkeypatch, merge):
    """Cut off before a measurement, before it is noted, and before what lost is removed."""
    path, out = recipe(models, tmp_path / "r.yaml"), tmp_path / "out"
    run(path, tmp_path / "whole", Distance(models), merge=merge)
    counted, cuts, left = Distance(models), Counter(), 0

    def cutting(usual):
        def cut(*arguments):
            nonlocal left
            left -= 1
            if left == 0:
                cuts[usual.__name__] += 1
                raise KeyboardInterrupt
            return usual(*arguments)

        return cut

    monkeypatch.setattr(Distance, "__call__", cutting(Distance.__call__))
    monkeypatch.setattr(History, "append", cutting(History.append))
    monkeypatch.setattr(Population, "replace", cutting(Population.replace))
    monkeypatch.setattr(Population, "discard", cutting(Population.discard))
    for period in itertools.cycle((4, 5, 3, 6)):
        left = period
        try:
            run(path, out, counted, merge=merge)
            break
        except KeyboardInterrupt:
            assert not out.exists()
    assert cuts.keys() >= {"__call__", "append", "discard" if merge else "replace"}
    assert digest(out) == digest(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "r.yaml", "whole"]


def test_a_killed_search_goes_on(models, tmp_path):
    path, out = recipe(models, tmp_path / "r.yaml"), tmp_path / "out"
    code = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from tests.evolving import Distance, run
        models, path, out = map(Path, sys.argv[1:])
        distance = Distance(models)
        def killed(folder):
            score = distance(folder)
            if distance.calls == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return score
        run(path, out, killed)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, models, path, out],
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == -9 and not out.exists()
    distance = Distance(models)
    run(path, out, distance)
    assert distance.calls == 16 - 6 + 2
    run(path, tmp_path / "whole", Distance(models))
    assert digest(out) == digest(tmp_path / "whole")


def test_seeds_decide_everything(models, tmp_path):
    path = recipe(models, tmp_path / "r.yaml", dtype="bfloat16")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(path, tmp_path / name, Distance(models), seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a")["model.safetensors"] != digest(tmp_path / "c")["model.safetensors"]
