"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# A partial file has a lock file beside it, which its writer holds locked. The system gives a lock back when its process
# ends, however that ends: where the lock can be had, the file is a leftover. A process's number tells less, as it is
# given again, and is another's in another container. The lock is on a file of its own because writers open and replace
# the partial file as they like, and because some shares let nobody read or write a file that is locked. As not every
# file system's locks reach other machines, names tell the machine, and each judges its own files only.
_HOST = f"{zlib.crc32(os.fsencode(platform.node())):08x}"
_LOCK = re.compile(rf"\.bilateral-ops-{_HOST}\.[0-9a-f]{{16}}\.lock")
#: Folders that this process has cleared. Not for every file: a folder may hold many.
_CLEARED: set[Path] = set()


@contextmanager
def whole(path: str | os.PathLike[str], keep: bool = True) -> Iterator[Path]:
    """A name beside this one to write to, which takes its place at the end, if that comes without an exception.

    The bytes are on the disk before they take their place. ``keep=False`` leaves nothing: commands try a folder so
    before they begin. What ended processes left in the folder is removed then, and before the first file.
    """
    path = Path(path)
    folder = path.parent.absolute()
    if folder not in _CLEARED or not keep:
        _CLEARED.add(folder)
        _clear(folder)
    with _partial(path.parent) as partial:
        mode = _mode(path)
        if mode is not None and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        yield partial
        if keep:
            _to_disk(partial)
            if mode is not None and mode != _mode(partial):  # not in vain: some shares have no permissions to change
                os.chmod(partial, mode)
            os.replace(partial, path)
            if sys.platform != "win32":
                with suppress(OSError):  # a file system that cannot do that for folders
                    _to_disk(path.parent)


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """``whole`` for a name that a caller gives: what a link leads to, and what nothing replaces, such as a device or a
    pipe, as it is. An ``OSError`` of the folder names the file.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        yield Path(path)
        return
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(whole(os.path.realpath(path)))
        except OSError as error:
            error.filename = os.fspath(path)
            raise
        yield partial


def _mode(path: Path) -> int | None:
    """The permissions of a regular file, of owner, group and others; None where the name is no such file's."""
    try:
        mode = path.lstat().st_mode  # not of what a link leads to, as it is the link that is replaced
    except FileNotFoundError:
        return None
    return mode & 0o777 if stat.S_ISREG(mode) else None


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A name in the folder, and its lock, until what was written there is gone."""
    lock = folder / f".bilateral-ops-{_HOST}.{secrets.token_hex(8)}.lock"
    partial = lock.with_suffix(".partial")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            _lock(descriptor, wait=True)  # for one who judges it just now
        except OSError:  # there are no locks here; a file without a lock file is judged by nobody
            _remove(lock)
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
        _remove(lock)


def _clear(folder: Path) -> None:
    """Remove what ended processes left in the folder, as far as that can be told and done."""
    with suppress(OSError):
        for name in filter(_LOCK.fullmatch, os.listdir(folder)):
            with suppress(OSError):
                _clear_unlocked(folder / name)


def _clear_unlocked(lock: Path) -> None:
    # Neither what a link leads to nor a pipe, which could wait for ever.
    descriptor = os.open(lock, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        _lock(descriptor, wait=False)
        lock.with_suffix(".partial").unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    _remove(lock)


def _remove(lock: Path) -> None:
    with suppress(OSError):  # on Windows another has it open, to judge it; then that one removes it
        lock.unlink()


def _lock(descriptor: int, wait: bool) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _to_disk(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
