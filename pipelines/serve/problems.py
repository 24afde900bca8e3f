"""Errors as problem documents (RFC 9457), with the codes of the batch job for what is wrong with a recording."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from sqllm.errors import UsageError

MEDIA_TYPE = "application/problem+json"
# Of what is wrong with the request; the codes of a recording are `sqllm.errors.CODES`.
TITLES = {
    "UNAUTHORIZED": "An API key is needed",
    "NOT_MULTIPART": "The upload is not a form",
    "INVALID": "The request is not as it should be",
    "TOO_LARGE": "The upload is too large",
    "SLOW_UPLOAD": "The upload took too long",
    "TOO_LONG": "The recording is too long",
    "BUSY": "All places are taken",
    "TIMEOUT": "No answer in time",
    "UNAVAILABLE": "The model is not ready",
    "NOT_FOUND": "There is no such thing",
    "MODEL": "The model failed",
}
STATUS = {"UNSUPPORTED": 415, "MODEL": 500, "CRASH": 500}  # of a recording's codes; all others 422


class Problem(HTTPException):
    """Raised wherever a request ends without an answer. `extra` goes into the document."""

    def __init__(self, status: int, code: str, detail: str, headers: dict | None = None, **extra):
        super().__init__(status, detail, headers)
        self.code, self.extra = code, extra

    @classmethod
    def of_row(cls, row: dict, **extra) -> Problem:
        """What a row without scores says."""
        code = row["error_code"]
        return cls(STATUS.get(code, 422), code, row["error_detail"], **extra)

    def document(self) -> dict:
        title = TITLES.get(self.code, "The recording cannot be scored")
        kind = f"urn:sqllm:problem:{self.code.lower()}"
        return {"type": kind, "title": title, "status": self.status_code, "code": self.code, "detail": self.detail} | (
            self.extra
        )

    def response(self) -> JSONResponse:
        return JSONResponse(self.document(), self.status_code, self.headers, MEDIA_TYPE)


def unauthorized(detail: str) -> Problem:
    return Problem(401, "UNAUTHORIZED", detail, {"WWW-Authenticate": "Bearer"})


def install(app: FastAPI) -> None:
    """Every error of the application leaves it as a problem document."""

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException):
        if not isinstance(error, Problem):  # of the framework: no such path, not that method, a form that is broken
            code = {404: "NOT_FOUND"}.get(error.status_code, "INVALID")
            error = Problem(error.status_code, code, str(error.detail), error.headers)
        return error.response()

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        return Problem(422, "INVALID", f"{first['loc'][-1]}: {first['msg']}").response()

    @app.exception_handler(UsageError)
    def usage(request: Request, error: UsageError):
        return Problem(422, "INVALID", str(error)).response()

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception):  # starlette logs it
        return Problem(500, "MODEL", "an unexpected error; the server's log has it").response()
