"""Experts added to and removed from what is served, through the real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from pydantic import SecretStr
from transformers import AutoModelForCausalLM

from compress.bundle import Bundle
from serve.adminsettings import Admin
from serve.api.app import create_app
from serve.api.security import Security
from serve.engine import Engine
from serve.live import Live
from serve.serversettings import ServerSettings
from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run
from tests.growing import hashes
from tests.serve.routed import WORDS
from tests.serve.switching import in_loop, real_live

PROMPT = tiny.prompt(3, 7)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A bundle with a router, and beside it the checkpoint ``t9`` of one expert more, and prompts of all."""
    base = tiny.save_base(tmp_path / "base")
    (tmp_path / "prompts").mkdir()
    for seed, (task, words) in enumerate([*WORDS.items(), ("t9", "sing song {} of {}")]):
        tiny.save_adapter(tmp_path / task, base, seed, target_modules="all-linear")
        lines = [json.dumps({"prompt": words.format(i, i + 5)}) for i in range(30)]
        (tmp_path / "prompts" / f"{task}.jsonl").write_text("\n".join(lines))
    write_recipe(
        tmp_path / "recipe.yaml",
        base="base",
        experts=[{"task": task, "checkpoint": task} for task in WORDS],
        router={"prompts": "prompts", "features": "embedding", "classifiers": "logistic"},
        output={"dtype": "float32"},
    )
    run(tmp_path, "build", "recipe.yaml", "-o", "bundle")
    return tmp_path / "bundle"


def alone(folder: Path, task: str) -> str:
    """What PEFT's own merge of one adapter answers to PROMPT: nothing of ours."""
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = PeftModel.from_pretrained(base, folder / task).merge_and_unload().double()
    out: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            out.append(int(model(input_ids=torch.tensor([PROMPT + out])).logits[0, -1].argmax()))
    return tiny.tokenizer().decode(out, skip_special_tokens=True)


async def ask(http: httpx.AsyncClient, task: str) -> Any:
    body = {"prompt": PROMPT, "max_tokens": 6, "ignore_eos": True, "temperature": 0}
    return await http.post("/v1/completions", json={"model": f"tiny:{task}", **body})


def client(live: Live[Engine], root: Path) -> httpx.AsyncClient:
    settings = ServerSettings.model_construct(
        admin=Admin(enabled=True, root=root), security=Security(admin_key=SecretStr("tws-admin"))
    )
    transport = httpx.ASGITransport(create_app(live, settings))
    headers = {"authorization": "Bearer tws-admin"}
    return httpx.AsyncClient(transport=transport, base_url="http://twin", timeout=60, headers=headers)


@in_loop
async def test_an_expert_is_added_and_removed_while_the_others_answer_as_before(
    served: Path, tmp_path: Path
) -> None:
    before = hashes(served)
    live = real_live()
    await live.switch(served, 0)
    try:
        async with client(live, tmp_path) as http:
            others = [(await ask(http, task)).json()["choices"][0]["text"] for task in ("t0", "static")]
            new = {"task": "t9", "checkpoint": "t9", "prompts": "prompts", "expected_generation": 1}
            state = (await http.post("/admin/experts", json=new)).json()
            assert "current" in state, state
            assert state["current"]["generation"] == 2 and "t9" in state["current"]["tasks"]
            assert Path(state["current"]["bundle"]) == served.with_name("bundle-g2")
            assert (await ask(http, "t9")).json()["choices"][0]["text"] == alone(tmp_path, "t9")
            assert [(await ask(http, t)).json()["choices"][0]["text"] for t in ("t0", "static")] == others
            routed = await http.post("/v1/route", json={"input": "sing song 99 of 7"})
            assert routed.json()["data"][0]["mixture"] == {"t9": 1.0}
            state = (await http.delete("/admin/experts/t9", params={"expected_generation": 2})).json()
            assert state["current"]["generation"] == 3
            assert Path(state["current"]["bundle"]) == served.with_name("bundle-g3")
            assert (await ask(http, "t9")).status_code == 404
            assert [(await ask(http, t)).json()["choices"][0]["text"] for t in ("t0", "static")] == others
        assert hashes(served) == before
        assert Bundle.open(served.with_name("bundle-g2")).tasks == ["t0", "t1", "t2", "t9"]
    finally:
        await live.stop()


@in_loop
async def test_a_change_that_cannot_be_made_leaves_no_folder(served: Path, tmp_path: Path) -> None:
    live = real_live()
    await live.switch(served, 0)
    there = sorted(tmp_path.iterdir())
    try:
        async with client(live, tmp_path) as http:
            new = {"task": "t9", "checkpoint": "t9", "expected_generation": 1}
            for change, code in (
                (new, "bundle_refused"),  # the router needs prompts
                ({**new, "prompts": "prompts", "task": "t0"}, "bundle_refused"),
                ({**new, "checkpoint": "recipe.yaml", "prompts": "prompts"}, "bundle_refused"),
                ({**new, "checkpoint": "../t9"}, "path_refused"),
                ({**new, "checkpoint": "org/model"}, "path_missing"),
            ):
                refused = await http.post("/admin/experts", json=change)
                assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
            removed = await http.delete("/admin/experts/nobody", params={"expected_generation": 1})
            assert removed.json()["error"]["code"] == "bundle_refused"
            stale = await http.delete("/admin/experts/t0", params={"expected_generation": 5})
            assert (stale.status_code, stale.json()["error"]["code"]) == (409, "generation_conflict")

        assert live.generation == 1 and sorted(tmp_path.iterdir()) == there
    finally:
        await live.stop()
