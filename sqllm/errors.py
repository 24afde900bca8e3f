"""The two kinds of error a user can meet.

`AudioError` is about one recording: it becomes a row with `status`, `error_code` and `error_detail`, and the work goes
on. `UsageError` is about the call: a wrong argument, a missing model; its text says what to do.
"""

import sys
from collections.abc import Callable
from pathlib import Path

CODES = (
    "NOT_FOUND", "DECODE", "UNSUPPORTED", "EMPTY", "SILENT", "TOO_SHORT", "NONFINITE", "REFERENCE", "MODEL", "CRASH",
)  # fmt: skip


class AudioError(Exception):
    """One recording cannot be scored. `code` is one of `CODES`, `detail` one sentence for a person."""

    def __init__(self, code: str, detail: str):
        assert code in CODES, code
        super().__init__(code, detail)
        self.code, self.detail = code, detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class UsageError(ValueError):
    """The caller asked for something that cannot be done; the message says what to do instead."""


def run(main: Callable[[], None]) -> None:
    """Run a module's command: a user's mistake is one line on stderr and exit status 2."""
    try:
        main()
    except (UsageError, AudioError) as error:
        script = Path(sys.argv[0])
        name = script.parent.name if script.stem == "__main__" else script.stem
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
