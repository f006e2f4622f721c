"""Paths that clients name: below one folder, whatever links and dots say."""

from __future__ import annotations

from pathlib import Path

from serve.api.errors import ApiError


def jailed(root: Path, given: str, param: str) -> Path:
    """The file or folder ``given``, relative to ``root`` or below it, with all links resolved.

    Raises ApiError 400, the same for what exists and what does not, when it or a link below it leads out of
    ``root``; and another one when nothing is there.
    """
    base = root.resolve()
    try:
        path = (base / given).resolve()
        inside = ".." not in Path(given).parts and path.is_relative_to(base) and path != base
        if inside and path.is_dir():
            inside = all(link.resolve().is_relative_to(base) for link in path.rglob("*") if link.is_symlink())
    except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte, a name too long
        inside = False
    if not inside:
        raise ApiError(400, f"'{param}' must be a path below admin.root.", param=param, code="path_refused")
    if not path.exists():
        raise ApiError(400, f"'{param}': there is nothing at {given}.", param=param, code="path_missing")
    return path
