"""Sentences with human sentiment ratings, read from the source distribution of vaderSentiment."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from compress.errors import InputError

REQUIREMENT = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"


class Snippet(NamedTuple):
    """One sentence and the mean of its human ratings, from -4 (negative) to 4."""

    rating: float
    text: str


def download(folder: Path) -> Path:
    """Fetch the source distribution from PyPI with pip into `folder` and return its path.

    Raises `InputError` when pip fails, for example without a network.
    """
    pinned = folder / "requirements.txt"
    # Fetching a source distribution runs its setup.py, so pip must check the hash before that.
    pinned.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-binary", "vaderSentiment"]
    command = [sys.executable, "-m", "pip", "download", *options]
    done = subprocess.run(
        [*command, "--requirement", str(pinned), "--dest", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise InputError(
            f"cannot download {REQUIREMENT} ({reason}); "
            "fetch its .tar.gz elsewhere and pass it with --vader-sdist"
        )
    return found[0]


def open_archive(sdist: Path | None) -> bytes:
    """The archive of rated sentences inside `sdist`, or inside a fresh download where it is None.

    Raises `InputError` when `sdist` is unreadable or is not the pinned distribution.
    """
    if sdist is None:
        with tempfile.TemporaryDirectory() as folder:
            return open_archive(download(Path(folder)))
    try:
        packed = sdist.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {sdist}: {error.strerror}; pass another file") from error
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{sdist} has sha256 {digest}, not {SHA256}; pass the .tar.gz that PyPI serves for {REQUIREMENT}"
        )
    return _member(packed, ARCHIVE)


def read_snippets(archive: bytes, table: str) -> list[Snippet]:
    """All rows of one table in its own order, read in memory: nothing is unpacked to disk."""
    text = _member(archive, f"hutto_ICWSM_2014/{table}_GroundTruth.txt").decode("utf-8")
    return [_parse(line) for line in text.splitlines()]


def _member(packed: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        stream = archive.extractfile(name)
        if stream is None:
            raise InputError(f"{name} is not a plain file in the archive; download it again")
        return stream.read()


def _parse(line: str) -> Snippet:
    _, rating, text = line.split("\t")
    return Snippet(float(rating), text.strip())
