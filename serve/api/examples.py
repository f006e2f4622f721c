"""Requests to try: examples in the OpenAPI document, with the model ids and tasks of the bundle at hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

SENTIMENT = {
    "type": "object",
    "properties": {"label": {"enum": ["positive", "negative"]}, "reason": {"type": "string"}},
    "required": ["label", "reason"],
    "additionalProperties": False,
}


def bodies(name: str, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Path -> what an example shows -> body, for the bundle ``name`` with these tasks."""
    words = "What is the sentiment of this text? A joy from beginning to end."
    user = [{"role": "user", "content": words}]
    chat: dict[str, Any] = {
        "The router chooses": {"model": name, "messages": user, "max_tokens": 32, "temperature": 0},
        "The merged model, as a stream": {
            "model": f"{name}:static",
            "messages": [{"role": "system", "content": "Answer with one word."}, *user],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "An answer that follows a schema": {
            "model": name,
            "messages": user,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "sentiment", "schema": SENTIMENT, "strict": True},
            },
        },
    }
    completions: dict[str, Any] = {
        "Two prompts at once": {"model": name, "prompt": [words, "2 + 2 ="], "max_tokens": 16, "seed": 1},
        "The shared base alone, with log-probabilities": {
            "model": name,
            "prompt": words,
            "mixture": {},
            "logprobs": 2,
        },
    }
    for task in tasks[:1]:
        chat["One expert by name"] = {"model": f"{name}:{task}", "messages": user, "stop": ["\n"]}
        completions["A mixture of one's own"] = {"model": name, "prompt": words, "mixture": {task: 0.5}}
    return {
        "/v1/chat/completions": chat,
        "/v1/completions": completions,
        "/v1/route": {"Texts": {"input": [words, "2 + 2 ="]}, "A conversation": {"messages": user}},
    }


def install(app: FastAPI) -> None:
    """Write the examples into the document that ``app`` sends, each time: its bundle may change."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = copy.deepcopy(plain())
        engine = app.state.engine
        for path, examples in bodies(engine.name, engine.tasks).items():
            content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            content["examples"] = {shows: {"value": body} for shows, body in examples.items()}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
