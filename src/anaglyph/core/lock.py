"""One writer a folder: a lock that names its owner and ends with it.

The lock is the operating system's, on the file `.lock` in the folder, so it ends with its process
however that ends, and no stale file can keep anybody out. The file says who writes: process, host,
command and since when. It is removed at the end. Readers take no lock and never wait.

Where the file system knows no locks (some network mounts), the process number in the file decides:
the lock of a process of this host that is gone is taken over.
"""

import errno
import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anaglyph.core.errors import StoreError
from anaglyph.core.files import check_name, check_writable, told

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}

# Folders locked by this process: its number (a forked child owns none), and the thread.
_held: dict[Path, tuple[int, int]] = {}


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep all other writers out of a folder, which is created if missing.

    The same thread may lock a folder again. A folder that cannot be written to needs no lock. A
    folder that is empty at the end is removed if it was created here.

    Yields:
        Whether this call took the lock; False if the thread had it.

    Raises:
        InputError: Its name is not UTF-8, or has a null byte.
        StoreError: Another process or thread writes to it; the message names the owner.

    Example:
        >>> with locked(Path("run")):                    # doctest: +SKIP
        ...     write_json(Path("run") / "x.json", {})
    """
    check_name(str(folder))
    place, me = Path(os.path.realpath(folder)), (os.getpid(), threading.get_ident())
    if _held.get(place) == me:
        yield False
        return
    with told(folder):
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    opened = _take(folder)
    _held[place] = me
    try:
        yield True
    finally:
        del _held[place]
        if opened is not None:
            # Removed before it is released: whoever waits for this file looks whether it is there.
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(opened)
        if created:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def reserved(folder: Path | None) -> Iterator[None]:
    """Lock a folder, and find out that it can be written to, before long work whose end it takes.

    Args:
        folder: Created if missing; None reserves nothing.

    Raises:
        StoreError: Another process writes to it, or it cannot be written to.
    """
    if folder is None:
        yield
        return
    with locked(folder):
        check_writable(folder)
        yield


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Return what the lock file says of the folder's writer; None if there is none."""
    try:
        opened = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            said = json.loads(os.read(opened, 4096))
        finally:
            os.close(opened)
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _take(folder: Path) -> int | None:
    """Open and lock the file; None if the folder is read-only or the platform has no locks."""
    if sys.platform == "win32":
        return None
    path = folder / LOCK
    while True:
        try:
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno in _READ_ONLY:
                return None
            with told(path):
                raise
        try:
            _lock(opened, folder)
            if _is_at(opened, path):
                _say_who(opened)
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)  # its owner has just removed it


def _lock(opened: int, folder: Path) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(_refusal(folder)) from error
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise StoreError(f"cannot lock {folder}: {error.strerror}") from error
        owner = owner_of(folder)
        if owner is not None and not _is_gone(owner):
            raise StoreError(_refusal(folder)) from error


def _is_at(opened: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


def _is_gone(owner: dict[str, Any]) -> bool:
    """Tell whether an owner of this host does not exist any more."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return owner["pid"] == os.getpid()


def _say_who(opened: int) -> None:
    said = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv)[:500],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Only a message depends on it: a full disk is told of by the first file that matters.
    with suppress(OSError):
        os.truncate(opened, 0)
        os.write(opened, json.dumps(said).encode())


def _refusal(folder: Path) -> str:
    owner = owner_of(folder)
    if owner is None:
        return f"another process is writing to {folder}; run the command again when it has ended"
    pid, host = owner.get("pid"), owner.get("host")
    here = "this host" if host == socket.gethostname() else f"host {host}"
    return (
        f"process {pid} on {here} is writing to {folder} since {owner.get('since')} "
        f"({owner.get('command')}); wait until it has ended, or stop it with: kill {pid}"
    )
