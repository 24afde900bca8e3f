"""Files wherever they are: a path, file://, s3://, and whatever else fsspec opens (gs://, abfs://, https://, ...).

Keys and endpoints come from the standard variables of each store (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...). A store
that answers 503 or drops a connection is asked again, with growing, random pauses; one that says no (404, 403) is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.utils import glob_translate

from sqllm.errors import UsageError

AHEAD = 4 << 20  # bytes of a file read at a time: a long recording is decoded while it is read
ATTEMPTS = 8  # with pauses of up to 1, 2, 4, ... 20 s
GLOB = re.compile(r"[*?[]")
OPTIONS = {
    "s3": {
        "config_kwargs": {"retries": {"mode": "standard", "max_attempts": ATTEMPTS}, "max_pool_connections": 32},
        "use_listings_cache": False,  # what another process has written must be seen
    }
}


class Found(NamedTuple):
    """A file of a listing. `etag` changes with its content: the store's own, or the time of its last change."""

    uri: str
    size: int
    etag: str


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def local(uri: str) -> str:
    """The path behind a path or a file:// URI."""
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def system(uri: str):
    """The fsspec file system of a URI, and the name of the file in it. UsageError where nothing here opens it."""
    if not is_remote(uri):
        return fsspec.filesystem("file"), os.path.abspath(local(uri))
    scheme = uri.split("://")[0]
    try:
        files = fsspec.filesystem(scheme, **OPTIONS.get({"s3a": "s3"}.get(scheme, scheme), {}))
    except (ValueError, ImportError) as error:  # an unknown scheme, or one whose package is not installed
        raise UsageError(f"cannot read from {scheme}://: {error}") from None
    return files, files._strip_protocol(uri)


def join(place: str, *names: str) -> str:
    return "/".join([place.rstrip("/") or "/", *names]) if is_remote(place) else os.path.join(local(place), *names)


def open_file(uri: str) -> BinaryIO:
    """A seekable stream of a file's bytes, fetched piece by piece. OSError, or UsageError as of `system`."""
    if not is_remote(uri):
        return open(local(uri), "rb")
    files, name = system(uri)
    with _as_os_error(uri):
        return files.open(name, "rb", block_size=AHEAD, cache_type="readahead")


def read(uri: str) -> bytes:
    """All of a file, in one request: what is replaced meanwhile is read as it was or as it is, never refused."""
    files, name = system(uri)
    with _as_os_error(uri):
        return files.cat_file(name)


def write(uri: str, content: bytes) -> None:
    """A file that appears whole or not at all, in the place of an older one."""
    if is_remote(uri):
        files, name = system(uri)
        with _as_os_error(uri):
            files.pipe_file(name, bytes(content))
        return
    path = Path(local(uri))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # readers of Parquet pass over names with a dot first
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a machine that loses power may keep the name, and nothing in it
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def create(uri: str, content: bytes) -> bool:
    """The file of `write`, unless there is one already: then False. S3 decides between two that create it at once."""
    files, name = system(uri)
    try:
        with _as_os_error(uri):
            files.pipe_file(name, bytes(content), mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        answer = getattr(error.__cause__, "response", {})  # not every store says which condition failed
        if answer.get("Error", {}).get("Code") not in ("PreconditionFailed", "ConditionalRequestConflict"):
            raise
        return False
    return True


def remove(uri: str) -> None:
    files, name = system(uri)
    with _as_os_error(uri):
        files.rm_file(name)


def info(uri: str) -> tuple[str, Found | None]:
    """("file", what a listing says of it), ("directory", None) or ("nothing", None)."""
    files, name = system(uri)
    try:
        with _as_os_error(uri):
            found = files.info(name)
    except FileNotFoundError:
        return "nothing", None
    return found["type"], _found(files, found) if found["type"] == "file" else None


def stat(uri: str) -> Found | None:
    """What a listing says of a file, or None where there is none. OSError where that cannot be told."""
    return info(uri)[1]


def below(folder: str) -> Iterator[Found]:
    """All files in a folder and its folders, in a fixed order; none where there is no such folder.

    Hidden ones are left out (macOS puts `._name.wav` beside `name.wav`); links to folders are not followed.
    OSError where a folder in it cannot be read: what is in there would be missed.
    """
    files, root = system(folder)
    if not is_remote(folder):
        for place, folders, names in os.walk(root, onerror=_unless_gone):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "lost+found")
            for name in sorted(name for name in names if not name.startswith(".")):
                found = stat(os.path.join(place, name))
                if found is not None:  # not a link to nothing
                    yield found
        return
    with _as_os_error(folder):
        in_order = _pages(files, f"{root.rstrip('/')}/") if "s3" in files.protocol else _sorted(files.find, root)
        for info in in_order:
            if not _hidden(info["name"][len(root) :]):
                yield _found(files, info)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _sorted(look, name: str) -> Iterator[dict]:
    found = look(name, detail=True)
    return (found[name] for name in sorted(found) if found[name]["type"] == "file")


def _pages(files, prefix: str) -> Iterator[dict]:
    """All objects whose names begin so, page by page, in the store's order: that of the names. A million objects are
    never held."""
    bucket, _, key = prefix.partition("/")
    asked = {"Bucket": bucket, "Prefix": key}
    while True:
        page = files.call_s3("list_objects_v2", **asked)
        for each in page.get("Contents", []):
            if not each["Key"].endswith("/"):  # what some tools put there for a folder
                yield each | {"name": f"{bucket}/{each['Key']}", "size": each["Size"]}
        if not page["IsTruncated"]:
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def matching(pattern: str) -> Iterator[Found]:
    """The files that a glob names, sorted; no hidden ones, unless it says so."""
    files, name = system(pattern)
    fixed = GLOB.split(name)[0]
    with _as_os_error(pattern):
        if "s3" in files.protocol:  # s3fs passes over folders that the store does not list
            named = re.compile(glob_translate(name))
            in_order = (info for info in _pages(files, fixed) if named.match(info["name"]))
        else:
            in_order = _sorted(files.glob, name)
        for info in in_order:
            if "/." in name or not _hidden(info["name"][fixed.rfind("/") + 1 :]):
                yield _found(files, info)


def _found(files, info: dict) -> Found:
    changed = next((info[key] for key in ("ETag", "etag", "mtime", "LastModified", "updated") if info.get(key)), "")
    uri = info["name"] if "file" in files.protocol else files.unstrip_protocol(info["name"])
    return Found(uri, info["size"] or 0, str(changed).strip('"'))


@contextmanager
def _as_os_error(uri: str) -> Iterator[None]:
    """Stores throw what they like: botocore's errors for missing keys and dead endpoints are no OSErrors."""
    try:
        yield
    except (OSError, UsageError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')} ({uri})") from error
