"""twinserve chat: a conversation in the terminal, with a running endpoint or with a bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from compress.errors import InputError
from serve.commands.options import Device, Threads, engine_settings

if TYPE_CHECKING:
    import httpx

    from serve.chatclient import Conversation

KEY_VARIABLE = "TWINSERVE_API_KEY"
COMMANDS = "/model NAME, /clear, /quit"
# Columns of a weight of 1.
WIDTH = 24


def chat(
    where: Annotated[str, typer.Argument(metavar="BUNDLE_OR_URL")],
    model: Annotated[str | None, typer.Option(help="dynamic, static, a task's name or a model id.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the first turn.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of one answer; default: all that fit.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Talk to a bundle, or to the endpoint at a URL (its key: TWINSERVE_API_KEY).

    Each answer begins with the mixture that gives it. /model NAME goes on with another model, /clear forgets
    the conversation, /quit ends; Ctrl-C stops an answer.

    Example: twinserve chat http://127.0.0.1:8000
    """
    from serve.chatclient import Conversation, connect

    if where.startswith(("http://", "https://")):
        opened: Any = closing(connect(where, os.environ.get(KEY_VARIABLE)))
    else:
        opened = _hosted(Path(where), device, threads)
    with opened as client:
        options: dict[str, Any] = {"temperature": temperature}
        if max_tokens is not None:
            options["max_tokens"] = max_tokens
        conversation = Conversation(client, options, system)
        if model is not None:
            conversation.choose(model)
        _talk(conversation, Console(highlight=False, soft_wrap=True))


@contextmanager
def _hosted(bundle: Path, device: str | None, threads: int | None) -> Iterator[httpx.Client]:
    """The bundle's own endpoint for the length of a conversation, on a socket that nobody else can open."""
    import tempfile
    import threading
    import time

    import httpx
    import uvicorn

    from serve.api.app import create_app
    from serve.chatclient import connect
    from serve.engine import Engine

    engine = Engine.open(bundle, engine_settings(device=device, threads=threads))
    with tempfile.TemporaryDirectory(prefix="twinserve-") as private:
        socket = f"{private}/socket"
        server = uvicorn.Server(uvicorn.Config(create_app(engine), uds=socket, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            with connect("http://bundle", None, httpx.HTTPTransport(uds=socket)) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
            engine.stop()


def _talk(conversation: Conversation, console: Console) -> None:
    console.print(f"[dim]{conversation.model}; {COMMANDS}[/]")
    while True:
        try:
            words = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        command, _, name = words.partition(" ")
        if command == "/quit":
            return
        try:
            if command == "/clear":
                conversation.clear()
            elif command == "/model":
                conversation.choose(name.strip())
                console.print(f"[dim]{conversation.model}[/]")
            elif command.startswith("/"):
                console.print(f"[dim]the commands are {COMMANDS}[/]")
            elif words:
                _answer(conversation, words, console)
        except InputError as error:
            console.print(Text(str(error), style="red"))


def _answer(conversation: Conversation, words: str, console: Console) -> None:
    shown = False
    with closing(conversation.say(words)) as pieces:
        try:
            for piece in pieces:
                if piece.routing is not None and not shown:
                    console.print(_mixture(piece.routing))
                    shown = True
                console.print(Text(_printable(piece.text)), end="")
        except KeyboardInterrupt:
            console.print(" …", end="")
    console.print()


def _mixture(routing: dict[str, Any]) -> Text:
    """Who answers and why in one line, then a bar for each expert."""
    confidence = routing["confidence"]
    sure = "" if confidence is None else f", confidence {confidence:.2f}"
    text = Text(f"{routing['arm']} by {routing['source']}{sure}", style="dim")
    mixture = sorted(routing["mixture"].items(), key=lambda item: -item[1]) or [("shared base", 1.0)]
    longest = max(len(task) for task, _ in mixture)
    for task, weight in mixture:
        bar = "█" * max(1, round(min(abs(weight), 1.0) * WIDTH))
        text.append(f"\n{task:{longest}} {bar} {weight:.2f}", style="cyan")
    return text


def _printable(text: str) -> str:
    """Without what a terminal would take as an order."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
