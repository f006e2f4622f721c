"""An endpoint with an admin key and a root of bundles, for stub generations."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from serve.adminsettings import Admin
from serve.api.app import create_app
from serve.api.security import Security
from serve.serversettings import ServerSettings


def bundles(folder: Path) -> Path:
    """A root with bundles ``a`` and ``b.c``, one that is bad, and things that lead out of it."""
    found = folder / "root"
    for name in ("a", "b.c", "bad", "leaky"):
        (found / name).mkdir(parents=True)
    (folder / "outside").mkdir()
    (found / "link").symlink_to(folder / "outside")
    (found / "good-link").symlink_to(found / "b.c")
    (found / "dangling").symlink_to(folder / "nowhere")
    (found / "loop").symlink_to(found / "loop")
    (found / "leaky" / "weights").symlink_to("/etc/passwd")
    return found


def client(live: Any, root: Path | None, enabled: bool = True, key: bool = True) -> httpx.AsyncClient:
    """A client of a new app around ``live``, which sends the admin key unless told not to."""
    settings = ServerSettings.model_construct(
        admin=Admin(enabled=enabled, root=root), security=Security(admin_key=SecretStr("tws-admin"))
    )
    transport = httpx.ASGITransport(create_app(live, settings))
    headers = {"authorization": "Bearer tws-admin"} if key else {}
    return httpx.AsyncClient(transport=transport, base_url="http://twin", headers=headers)


def told(number: int, bundle: Path) -> dict[str, Any]:
    """What the list says of a generation that has nothing to do."""
    digest = sha256(bundle.name.encode()).hexdigest()
    return {
        "generation": number, "bundle": str(bundle), "digest": digest, "tasks": bundle.name.split("."),
        "requests": 0, "failed": False, "experiments": [],
    }  # fmt: skip
