"""A PostgreSQL of the tests' own: made in a temporary folder, reached by a Unix socket alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from glob import glob
from pathlib import Path

# Debian's packages put each version's programs into a folder that is on nobody's PATH.
FOLDERS = "/usr/lib/postgresql/*/bin"
MISSING = "there is no PostgreSQL here; make deps-test installs it"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; None where PostgreSQL, or for root its user, is not there."""
    if os.geteuid() == 0 and "postgres" not in (user.pw_name for user in pwd.getpwall()):
        return None
    found = shutil.which("initdb") or next(iter(sorted(glob(f"{FOLDERS}/initdb"), reverse=True)), None)
    return None if found is None else Path(found).parent


class Cluster:
    """A server with one user, ``twin``. It refuses to run as root, so root runs it as ``postgres``."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs = folder, programs
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", folder / "data", "-U", "twin", "-A", "trust", "-E", "UTF8", "--no-sync")

    @classmethod
    def temporary(cls) -> Cluster | None:
        """One in a folder with a path short enough for a socket; None where PostgreSQL is not installed."""
        found = programs()
        return None if found is None else cls(Path(tempfile.mkdtemp(prefix="twin-pg-", dir="/tmp")), found)

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self._control("start", "-l", self.folder / "log", "-o", options)

    def stop(self) -> None:
        """End at once, as a crash would."""
        self._control("stop", "-m", "immediate")

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def url(self) -> str:
        return f"postgresql://twin@/postgres?host={self.folder}"

    def _control(self, *words: object) -> None:
        self._run("pg_ctl", *words, "-w", "-D", self.folder / "data")

    def _run(self, program: str, *words: object) -> None:
        command = [*self._user, str(self._programs / program), *map(str, words)]
        # Output goes to a file: the server inherits it, and a pipe would stay open as long as that runs.
        with tempfile.TemporaryFile() as output:
            ended = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            output.seek(0)
            assert ended.returncode == 0, output.read().decode()
