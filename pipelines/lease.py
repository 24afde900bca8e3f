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
def only_writer(out: str, tell: Callable[[str], None] = lambda stage: None) -> Iterator[Callable[[], bool]]:
    """UsageError where another run writes to the folder or URI `out`. `tell` is told what is waited for.

    What it gives says whether this run may write still: not one that stood still until another took its lease.
    """
    with _leased(storage.join(out, ".lease"), out, tell) if storage.is_remote(out) else _locked(out) as holds:
        yield holds


@contextmanager
def _locked(out: str) -> Iterator[Callable[[], bool]]:
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
        except OSError as error:
            raise UsageError(f"cannot lock --out {out}, two runs could write there: {error.strerror}") from None
        yield lambda: True


@contextmanager
def _leased(lease: str, out: str, tell: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    me, ended, taken, looked = uuid.uuid4().hex, threading.Event(), threading.Event(), time.time()

    def look() -> None:
        nonlocal looked
        with suppress(OSError):  # a store that is away for long fails the run elsewhere
            if not _holds(lease, me):
                taken.set()
            looked = time.time()

    def renew() -> None:
        beat = 0
        while not ended.wait(BEAT_S) and not taken.is_set():
            beat += 1
            look()
            if not taken.is_set():
                with suppress(OSError):
                    storage.write(lease, f"{me} {beat}".encode())

    def holds() -> bool:
        if time.time() - looked > 2 * BEAT_S:  # it stood still, or the store is slow
            look()
        return not taken.is_set()

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
        yield holds
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
    return UsageError(
        f"another run is writing to {out}: give another --out, or wait (`sqllm show` follows one that scores)"
    )
