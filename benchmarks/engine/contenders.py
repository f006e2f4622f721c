"""Every contender by name, and how each is made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.ggufs import convert
from benchmarks.engine.models import RANK
from benchmarks.engine.peers.process import PeerError, Process
from benchmarks.engine.protocol import Answers, Contender
from compress.bundle import Bundle
from compress.loading import first_line


@dataclass(frozen=True)
class Setting:
    """What all contenders share. folder: where converted files and logs go. vllm_python and
    llamacpp_python: the Python of the environment that has it. max_len: tokens of prompt and answer."""

    bundle: Bundle
    folder: Path
    slots: int
    threads: int
    max_len: int
    vllm_python: Path | None = None
    llamacpp_python: Path | None = None


def own(setting: Setting, name: str, answers: Answers) -> Contender:
    """One that runs in this environment."""
    options = _options(setting) | {"contender": name, "bundle": str(setting.bundle.path.resolve())}
    module = "benchmarks.engine.peers.own"
    return Process(name, answers, Path(sys.executable), module, options, _log(setting, name))


def vllm(setting: Setting, name: str, *, lora: bool, compiled: bool) -> Contender:
    """vLLM with all experts as LoRA adapters, or with the base alone."""
    if setting.vllm_python is None:
        raise PeerError("not run: give --vllm-python")
    answers: Answers = "one expert" if lora else "one model"
    options = _options(setting) | {
        "model": str(setting.bundle.base.resolve()),
        "adapters": {
            task: str((setting.bundle.path / "experts" / task).resolve())
            for task in (setting.bundle.tasks if lora else [])
        },
        "rank": RANK,
        "compiled": compiled,
    }
    module = "benchmarks.engine.peers.vllm"
    return Process(name, answers, setting.vllm_python, module, options, _log(setting, name))


def llamacpp(setting: Setting, name: str) -> Contender:
    """llama.cpp in float32 with all experts as GGUF adapters."""
    if setting.llamacpp_python is None:
        raise PeerError("not run: give --llamacpp-python")
    base, adapters = convert(setting.bundle, (setting.folder / "gguf" / setting.bundle.path.name).resolve())
    options = _options(setting) | {
        "model": str(base),
        "adapters": {task: str(path) for task, path in adapters.items()},
    }
    module = "benchmarks.engine.peers.llamacpp"
    return Process(name, "any mixture", setting.llamacpp_python, module, options, _log(setting, name))


def _options(setting: Setting) -> dict[str, Any]:
    return {"slots": setting.slots, "max_len": setting.max_len, "threads": setting.threads}


def _log(setting: Setting, name: str) -> Path:
    return setting.folder / "logs" / f"{name}.log"


CONTENDERS: dict[str, Callable[[Setting, str], Contender]] = {
    "twinserve": lambda s, name: own(s, name, "any mixture"),
    "generate": lambda s, name: own(s, name, "one model"),
    "peft": lambda s, name: own(s, name, "one expert"),
    "reference": lambda s, name: own(s, name, "any mixture"),
    # With LoRA vLLM compiles nothing on a CPU (its platform sets that mode to none), so there is one of it.
    "vllm": lambda s, name: vllm(s, name, lora=True, compiled=False),
    "vllm-base": lambda s, name: vllm(s, name, lora=False, compiled=False),
    "vllm-base-compiled": lambda s, name: vllm(s, name, lora=False, compiled=True),
    "llamacpp": llamacpp,
}


def load(setting: Setting, names: list[str]) -> tuple[list[Contender], dict[str, str]]:
    """Those that started, and why the others did not."""
    made, failures = [], {}
    for name in names:
        try:
            made.append(CONTENDERS[name](setting, name))
        # Whatever a foreign library raises is that contender's result, and no reason to lose the others.
        except Exception as error:
            failures[name] = first_line(error)
    return made, failures
