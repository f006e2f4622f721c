"""The far side of a peer in a Python environment of its own: workloads come as lines of JSON on standard
input, results go as lines of JSON to standard output. Standard library only."""

from __future__ import annotations

import ctypes.util
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine.protocol import Request, Result, Workload

Run = Callable[[Workload], Result]


def serve(load: Callable[[dict[str, Any]], tuple[Run, str]]) -> None:
    """Load once with the options in the first argument, then run workloads until the input ends.

    ``load`` returns the function that runs one, and the peer's version."""
    # Libraries print where they like: only our lines may reach the pipe.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**line: Any) -> None:
        print(json.dumps(line), file=channel, flush=True)

    try:
        run, version = load(json.loads(sys.argv[1]))
    except Exception as error:
        traceback.print_exc()
        say(error=_sentence(error))
        return
    say(version=version)
    for line in sys.stdin:
        try:
            result = run([Request(**request) for request in json.loads(line)])
        except Exception as error:
            traceback.print_exc()
            say(error=_sentence(error))
        else:
            say(result=asdict(result), peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def preload(module: str) -> None:
    """Start ``module`` anew with the allocator and the OpenMP that vLLM's manual asks for, where they are
    there: what helps one contender is given to all."""
    openmp = Path(sys.prefix, "lib", "libiomp5.so")
    found = [str(openmp) if openmp.exists() else None, ctypes.util.find_library("tcmalloc_minimal")]
    wanted = ":".join(filter(None, found))
    if wanted and "LD_PRELOAD" not in os.environ:
        os.environ["LD_PRELOAD"] = wanted
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
