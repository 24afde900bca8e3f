"""`sqllm serve`: the endpoint on this machine, or on the cluster of RAY_ADDRESS, until Ctrl-C."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import math
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import ray
from ray import serve

from pipelines.cluster import STORE_BYTES
from pipelines.serve.deployments import KEYS, application
from pipelines.serve.settings import Settings
from sqllm.errors import UsageError

GRACE_S = 15.0  # Serve's own limit is beyond the application's: it never cuts an answer off


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check(settings: Settings, host: str, port: int) -> Settings:
    """The settings with which it may start. UsageError where it may not, or the port is taken."""
    keys = os.environ.get(KEYS, "").replace(",", "").strip()
    if not keys and not settings.no_auth:
        if not loopback(host):
            raise UsageError(
                f"--host {host} is open to others: set {KEYS} (keys, separated by commas), or say --no-auth"
            )
        settings = settings.model_copy(update={"no_auth": True})
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return settings


@contextlib.contextmanager
def serving(settings: Settings, host: str, port: int, verbose: bool = False) -> Iterator[str]:
    """Up when entered, with the address; gone when left."""
    local = os.environ.get("RAY_ADDRESS", "local") == "local"
    level = logging.INFO if verbose else logging.ERROR
    cpus = settings.max_replicas * settings.model_cpus + math.ceil(settings.max_ingress * settings.ingress_cpus) + 1
    here = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES} if local else {}
    started = not ray.is_initialized()
    if started:
        ray.init(os.environ.get("RAY_ADDRESS", "local"), log_to_driver=verbose, logging_level=level, **here)
    logging.getLogger("ray.serve").setLevel(level)
    try:
        there = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        address = f"http://{there}:{port}"
        timeout = settings.upload_timeout_s + 3 * settings.timeout_s + GRACE_S  # two recordings, and words
        serve.start(
            proxy_location="HeadOnly" if local else "EveryNode",
            http_options={"host": host, "port": port, "request_timeout_s": timeout},
            logging_config={"log_level": logging.getLevelName(level), "enable_access_log": verbose},
        )
        _listens(address)
        try:
            serve.run(application(settings), name="sqllm", route_prefix="/")
            yield address
        except RuntimeError as error:  # a page of Ray's own words; the reason is in it, if it was a user's mistake
            reasons = re.findall(r"UsageError: (.+)", str(error))
            raise UsageError(reasons[-1]) if reasons else error from None
        finally:
            if not (started and local):  # a Ray of our own goes with all that runs on it
                serve.delete("sqllm") if set(serve.status().applications) - {"sqllm"} else serve.shutdown()
    finally:
        if started:
            ray.shutdown()


def _listens(address: str) -> None:
    """Serve that ran before us keeps the port it was started with, and says so in its log only."""
    try:
        urllib.request.urlopen(f"{address}/-/healthz", timeout=60).close()
    except urllib.error.HTTPError:
        pass  # somebody is there, and not ready before the application is
    except OSError:
        raise UsageError(
            f"Ray Serve does not listen on {address}: where the cluster serves already, name its --host and --port"
        ) from None


def run(settings: Settings, host: str, port: int, verbose: bool = False) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = threading.Event()
    start = time.monotonic()
    with serving(settings, host, port, verbose) as address:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: stop.set())
        with urllib.request.urlopen(f"{address}/readyz", timeout=60) as answer:
            model = json.load(answer)["model"]
        print(f"{settings.model} {model}, ready after {time.monotonic() - start:.1f} s; Ctrl-C ends it", flush=True)
        for name, path in (("page", "/"), ("docs", "/docs"), ("scores", "/v1/score")):
            print(f"  {name:7} {address}{path}", flush=True)
        stop.wait()
    print("ended", flush=True)
