"""The wheel carries the three packages, all of each, and a command that runs without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("compress", "router", "serve")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    result = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--no-deps"),
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # setuptools reuses build/lib next to the sources, where a deleted module may live on.
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    output = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--no-index", "-w", output, source, cwd=output)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-index", "--target", target, wheel, cwd=target)
    return target


def test_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_wheel_is_pure_python_and_named_by_the_project(wheel: Path) -> None:
    assert wheel.name == f"{PROJECT['name']}-{PROJECT['version']}-py3-none-any.whl"


def test_wheel_metadata_carries_licence_and_command(wheel: Path) -> None:
    archive = ZipFile(wheel)
    info = f"{PROJECT['name']}-{PROJECT['version']}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "twinserve = serve.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_installed_command_shows_its_help_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    output = run(installed / "bin" / "twinserve", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "serve" in output


def test_installed_packages_are_the_ones_imported(installed: Path, tmp_path: Path) -> None:
    script = "import compress, router, serve; print(compress.__file__, serve.__file__)"
    output = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(installed))
    assert all(Path(file).is_relative_to(installed) for file in output.split())
