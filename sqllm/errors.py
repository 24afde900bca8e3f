"""The two kinds of error a user can meet.

`AudioError` is about one recording: it becomes a row with `status`, `error_code` and `error_detail`, and the work goes
on. `UsageError` is about the call: a wrong argument, a missing model; its text says what to do.
"""

CODES = ("NOT_FOUND", "DECODE", "UNSUPPORTED", "EMPTY", "SILENT", "TOO_SHORT", "NONFINITE", "REFERENCE", "MODEL")


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
