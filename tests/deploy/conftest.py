"""cluster.yaml on this machine: Ray's own autoscaler and node types, with processes for machines."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config
from ray.job_submission import JobSubmissionClient

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STORE = 100 << 20  # bytes of audio in flight on each "machine"


def find_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def port():
    return find_port()


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The environment of who uses the cluster: RAY_ADDRESS, and RAY_API_SERVER_ADDRESS of the dashboard."""
    folder = tmp_path_factory.mktemp("ray")
    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    gcs, dashboard = find_port(), find_port()
    for kind in config["available_node_types"].values():
        kind["node_config"] = {}
        kind["resources"]["object_store_memory"] = STORE
        kind.pop("docker", None)
    config["available_node_types"]["cpu"]["resources"]["CPU"] = 2  # models there take so many threads
    # the provider of processes knows its head by this name
    config["available_node_types"]["ray.head.default"] = config["available_node_types"].pop("head")
    nothing_to_set_up = {"disable_node_updaters": True, "disable_launch_config_check": True, "use_node_id_as_ip": True}
    config["provider"] = {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{gcs}"} | nothing_to_set_up
    config |= {"docker": {}, "head_node_type": "ray.head.default", "file_mounts": {}}
    (folder / "config.json").write_text(json.dumps(config))
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=0", f"--port={gcs}"]
    command += [
        f"--autoscaling-config={folder / 'config.json'}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={find_port()}",  # the usual one belongs to any other Ray on this machine
        f"--object-store-memory={STORE}",
    ]
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "SQLLM_API_KEYS": "one,two",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    start = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    with open(folder / "log", "w") as log:
        head = subprocess.Popen(command, env=start, stdout=log, stderr=log)
    try:
        wait_for_port(gcs)
        wait_for_port(dashboard)
        wait_for_jobs(environment["RAY_API_SERVER_ADDRESS"])
        yield environment
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            process.kill()
        head.wait()


def wait_for_jobs(address: str, seconds: float = 120) -> None:
    """The agent that runs jobs on the head starts last."""
    until = time.monotonic() + seconds
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except (RuntimeError, ConnectionError):
            if time.monotonic() > until:
                raise
            time.sleep(1)


def wait_for_port(port: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")
