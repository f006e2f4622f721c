"""The far side of a peer in a Python environment of its own: workloads come as lines of JSON on standard
input, results go as lines of JSON to standard output. Standard library only."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
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
            say(result=asdict(result))


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
