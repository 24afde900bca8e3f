"""One run at a time writes to a folder: two would score the same recordings.

On this machine a lock, which goes with its process, however that ends. A store has none: there a run keeps an object of
its own beside the scores and renews it; one that is no longer renewed has lost its run, and may be taken over.
"""

from __future__ import annotations

import fcntl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqllm import storage
from sqllm.errors import UsageError

BEAT_S, LOST = 5.0, 4  # a lease is renewed every 5 s, and is lost when four of these pass without
SETTLED_S = 1.0  # between two runs that take over the same lease the last one wins, and the first one sees it


@contextmanager
def only_writer(out: str, tell: Callable[[str], None] = lambda stage: None) -> Iterator[None]:
    """UsageError where another run writes to the folder or URI `out`. `tell` is told what is waited for."""
    with _leased(storage.join(out, ".lease"), out, tell) if storage.is_remote(out) else _locked(out):
        yield


@contextmanager
def _locked(out: str) -> Iterator[None]:
    folder = Path(storage.local(out))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115 - closed, and with it unlocked, below
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(out) from None
        yield


@contextmanager
def _leased(lease: str, out: str, tell: Callable[[str], None]) -> Iterator[None]:
    me, ended = uuid.uuid4().hex, threading.Event()

    def renew() -> None:
        beat = 0
        while not ended.wait(BEAT_S):
            beat += 1
            with suppress(OSError):  # a store that is away for long fails the run elsewhere
                if _holds(lease, me):  # a run that was suspended does not take it back
                    storage.write(lease, f"{me} {beat}".encode())

    try:
        if not storage.create(lease, f"{me} 0".encode()):
            _await_loss(lease, me, out, tell)
            storage.write(lease, f"{me} 0".encode())
            time.sleep(SETTLED_S)
            if not _holds(lease, me):
                raise _refusal(out)
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error}") from None
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            if _holds(lease, me):
                storage.remove(lease)


def _await_loss(lease: str, me: str, out: str, tell: Callable[[str], None]) -> None:
    """Return when a lease that is not `me` is gone or no longer renewed; UsageError when it is."""
    seen = _content(lease)
    if seen is None or seen.startswith(me):  # `create` was repeated after an answer that got lost
        return
    tell("waiting for the end of another run")
    for _ in range(LOST):
        time.sleep(BEAT_S)
        now = _content(lease)
        if now is None:
            return
        if now != seen:
            raise _refusal(out)


def _holds(lease: str, me: str) -> bool:
    return (_content(lease) or "").startswith(me)


def _content(lease: str) -> str | None:
    try:
        return storage.read(lease).decode()
    except FileNotFoundError:
        return None


def _refusal(out: str) -> UsageError:
    return UsageError(f"another run is writing to {out}: `sqllm show {out}` follows it")
