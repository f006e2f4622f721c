"""twinserve keys: new, revoke, list."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from compress.errors import InputError

KeysPath = Annotated[Path, typer.Option(metavar="KEYS.yaml", help="The endpoint's security.keys_file.")]

app = typer.Typer(help="API keys of the endpoint, in a file that holds their hashes.", no_args_is_help=True)


@app.command()
def new(
    name: str,
    file: KeysPath,
    admin: Annotated[bool, typer.Option("--admin", help="For the admin routes, and nothing else.")] = False,
) -> None:
    """Make a key and print it, this once: the file gets its hash.

    Example: twinserve keys new alice --file keys.yaml
    """
    from pydantic import ValidationError

    from compress.recipe import validation_sentence
    from serve.keysfile import Key, digest, new_secret, read_keys, write_keys

    keys = read_keys(file) if file.exists() else []
    if any(key.name == name for key in keys):
        raise InputError(f"{file}: there is a key {name!r} already; revoke it, or choose another name")
    secret = new_secret()
    try:
        key = Key(
            name=name,
            sha256=digest(secret.encode()),
            role="admin" if admin else "user",
            created=datetime.datetime.now(datetime.UTC).date(),
        )
    except ValidationError as error:
        raise InputError(f"the key's {validation_sentence(error, Key)}") from error
    write_keys(file, [*keys, key])
    Console(stderr=True).print(f"{file}: added {name}; keep the key, it is shown this once", highlight=False)
    typer.echo(secret)


@app.command()
def revoke(name: str, file: KeysPath) -> None:
    """Remove a key; a running endpoint refuses it from its next request on.

    Example: twinserve keys revoke alice --file keys.yaml
    """
    from serve.keysfile import read_keys, write_keys

    keys = read_keys(file)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        names = ", ".join(key.name for key in keys) or "none"
        raise InputError(f"{file}: there is no key {name!r}; the keys are {names}")
    write_keys(file, left)
    Console(stderr=True).print(f"{file}: revoked {name}", highlight=False)


@app.command("list")
def list_keys(file: KeysPath) -> None:
    """Show whose keys there are.

    Example: twinserve keys list --file keys.yaml
    """
    from serve.keysfile import read_keys

    table = Table(title=str(file), title_justify="left")
    for column in ("name", "role", "created"):
        table.add_column(column)
    for key in read_keys(file):
        table.add_row(key.name, key.role, str(key.created or ""))
    Console().print(table)
