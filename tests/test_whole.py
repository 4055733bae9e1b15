"""Are files there whole or not at all, and does nothing stay of processes that were killed?"""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bilateral_ops._core import whole as _whole
from bilateral_ops._core.whole import whole, written

_WRITER = """
import sys, time
from bilateral_ops._core.whole import whole
with whole(sys.argv[1]) as partial:
    partial.write_bytes(b"half")
    print(partial.name, flush=True)
    time.sleep(100)
"""


@contextmanager
def writer(path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process in the middle of a file, and the partial file."""
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, path.with_name(process.stdout.readline().strip())
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with whole(path) as partial:
        assert partial.parent == tmp_path
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with suppress(ZeroDivisionError), whole(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    with whole(path, keep=False) as partial:
        partial.touch()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("writing", [whole, written])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o777, 0o200])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, writing: Any, mode: int) -> None:
    def permissions() -> list[int]:
        return [path.stat().st_mode & 0o7777 for path in sorted(tmp_path.iterdir())]

    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(mode)
    (tmp_path / "b").touch()
    usual = permissions()[1]
    for name in "abc":
        with writing(tmp_path / name) as partial:
            partial.write_text("new")
    assert permissions() == [mode, usual, usual]


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few make links")
def test_permissions_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(0o700)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "nowhere").symlink_to("b")
    with written(tmp_path / "link") as partial:
        partial.write_text("through the link")
    assert (tmp_path / "a").read_text() == "through the link"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    for name in ("link", "nowhere"):
        with whole(tmp_path / name) as partial:
            partial.write_text("in its place")
        assert (tmp_path / name).lstat().st_mode == (tmp_path / name).stat().st_mode != (tmp_path / "a").stat().st_mode
    assert names(tmp_path) == ["a", "link", "nowhere"]


@pytest.mark.parametrize("writing", [whole, written, functools.partial(whole, keep=False)])
def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path: Path, writing: Any) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may write to every file")
    with pytest.raises(PermissionError) as error, writing(path):
        pytest.fail("begun")
    assert (error.value.filename, error.value.strerror) == (str(path), os.strerror(errno.EACCES))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]
    path.chmod(0o644)  # so that Windows removes it


@pytest.mark.skipif(os.name == "nt", reason="Windows has no /dev/null, and opens no folder")
def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    for name in ("/dev/null", tmp_path):  # a folder cannot be opened for that
        with written(name) as partial:
            assert partial == Path(name)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        with written(tmp_path / "pipe") as partial:
            partial.write_text("piped")
        assert reader.communicate()[0] == b"piped"
    (tmp_path / "link").symlink_to("a")
    for text in ("new", "newer"):
        with written(tmp_path / "link") as partial:
            partial.write_text(text)
        assert (tmp_path / "a").read_text() == text
    assert (tmp_path / "link").is_symlink()
    with suppress(ZeroDivisionError), written(tmp_path / "a"):
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "newer"
    with pytest.raises(FileNotFoundError) as error, written(tmp_path / "nowhere" / "a"):
        pass
    assert error.value.filename == str(tmp_path / "nowhere" / "a")
    assert names(tmp_path) == ["a", "link", "pipe"]


@pytest.mark.parametrize("keep", [True, False])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, keep: bool) -> None:
    with writer(tmp_path / "a") as (process, partial):
        process.kill()
        process.wait()
    assert len(names(tmp_path)) == 2
    assert partial.read_bytes() == b"half"
    with whole(tmp_path / "b", keep) as other:
        other.touch()
    assert names(tmp_path) == ["b"] * keep


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as (_, partial):
        before = names(tmp_path)
        with whole(tmp_path / "b", keep=False) as other:
            other.touch()
        assert names(tmp_path) == before
        # A writer may have replaced the file.
        (tmp_path / "new").write_bytes(b"more")
        os.replace(tmp_path / "new", partial)
        with whole(tmp_path / "b", keep=False):
            pass
        assert names(tmp_path) == before


def test_what_other_threads_write_stays(tmp_path: Path) -> None:
    started, end = threading.Barrier(5), threading.Event()
    failed = []

    def write(name: str) -> None:
        try:
            with whole(tmp_path / name) as partial:
                partial.write_text(name)
                started.wait()
                end.wait()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    started.wait()
    with whole(tmp_path / "e", keep=False):
        pass
    end.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert names(tmp_path) == list("abcd")


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    """Not of other machines, which may be at it, nor what only looks like one."""
    host, token = _whole._HOST, "0123456789abcdef"
    other = f"{int(host, 16) ^ 1:08x}"
    kept = [
        *(f".bilateral-ops-{other}.{token}.lock", f".bilateral-ops-{other}.{token}.partial"),
        *(f".bilateral-ops-{host}.{token}.partial", f".bilateral-ops-{host}.{token}.lock.txt"),  # one without a lock
        *(f".bilateral-ops-{host}.{token[1:]}.lock", f"bilateral-ops-{host}.{token}.lock", "a.partial", ".b.lock"),
    ]
    for name in kept:
        (tmp_path / name).write_text("kept")
    (tmp_path / f".bilateral-ops-{host}.{'1' * 16}.lock").mkdir()
    if os.name != "nt":
        (tmp_path / f".bilateral-ops-{host}.{'2' * 16}.lock").symlink_to("a.partial")
        os.mkfifo(tmp_path / f".bilateral-ops-{host}.{'3' * 16}.lock")
    before = names(tmp_path)
    for ending in ("lock", "partial"):
        (tmp_path / f".bilateral-ops-{host}.{'4' * 16}.{ending}").write_text("left")
    with whole(tmp_path / "c", keep=False):
        pass
    assert names(tmp_path) == before


def test_a_folder_is_cleared_once_for_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared = []
    monkeypatch.setattr(_whole, "_clear", cleared.append)
    for name in "abc":
        with whole(tmp_path / name) as partial:
            partial.touch()
    assert cleared == [tmp_path]


@pytest.mark.parametrize(("module", "what"), [(os, "listdir"), (_whole, "_clear_unlocked")])
def test_what_cannot_be_cleared_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, what: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no")

    (tmp_path / f".bilateral-ops-{_whole._HOST}.{'4' * 16}.lock").touch()
    monkeypatch.setattr(module, what, fail)
    with whole(tmp_path / "a") as partial:
        partial.touch()
    assert (tmp_path / "a").exists()


def test_without_locks_files_are_written_and_judged_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(_whole, "_lock", no_locks)
    with whole(tmp_path / "a") as partial:
        partial.write_text("half")
        if os.name != "nt":
            assert names(tmp_path) == [partial.name]
        monkeypatch.undo()
        with whole(tmp_path / "b", keep=False):
            pass
        assert partial.read_text() == "half"
    assert names(tmp_path) == ["a"]


def test_bytes_are_on_the_disk_before_they_take_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with whole(tmp_path / "a") as partial:
        partial.write_text("all")
    folder = [tmp_path.stat().st_ino] if os.name != "nt" else []
    assert calls == [(tmp_path / "a").stat().st_ino, "replace", *folder]
