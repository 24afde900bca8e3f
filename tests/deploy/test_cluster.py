import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml
from pyarrow import dataset
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines import cluster
from sqllm.errors import UsageError

ROOT = Path(__file__).parents[2]
BOOKED = """
import json, os, threading, time
import ray
from ray.autoscaler.sdk import request_resources
from pipelines.cluster import CUT_CPUS, Pool, start_ray

class Scorer:
    def where(self):
        return os.environ.get("RAY_NODE_TYPE_NAME")

def replace_requests():  # as Ray Data of any job on the cluster does, every 20 seconds
    while True:
        request_resources(num_cpus=0)
        time.sleep(0.1)

start_ray()
threading.Thread(target=replace_requests, daemon=True).start()
before = [ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU")]
pool = Pool.fit(1000, 2, "cuda")
actors = [ray.remote(Scorer).options(num_cpus=pool.cpus, num_gpus=pool.gpus).remote() for _ in range(pool.actors)]
places = ray.get([actor.where.remote() for actor in actors])
print(json.dumps({"before": before, "gpus": pool.gpus, "cpus": pool.cpus, "threads": pool.threads, "places": places}))
"""


def config() -> dict:
    return prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


def test_ray_accepts_cluster_yaml():
    validate_config(config())
    kinds = config()["available_node_types"]
    assert kinds[config()["head_node_type"]]["resources"] == {"CPU": 0}
    assert "GPU" not in kinds["cpu"]["resources"] and kinds["gpu"]["resources"]["GPU"] == 1


def test_the_schema_sees_a_slip():
    slip = config()
    slip["available_node_types"]["gpu"]["ressources"] = {}
    with pytest.raises(jsonschema.ValidationError, match="ressources"):
        validate_config(slip)


def test_a_cluster_of_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(cluster.ray, "cluster_resources", dict)
    with pytest.raises(UsageError, match="--actors N"):
        cluster.Pool.fit(1, None, "auto")


@pytest.mark.timeout(240)
def test_the_nightly_job_starts_the_machines_that_it_needs(launched, tmp_path):
    """The CronJob's own command, against the cluster of cluster.yaml; the GPUs alone are left out."""
    night = tmp_path / "calls/2026-11-24"
    night.mkdir(parents=True)
    for sample in sorted((ROOT / "sqllm/samples").rglob("*.flac"))[:2]:
        shutil.copy(sample, night)
    _, nightly = yaml.safe_load_all((ROOT / "deploy/kubernetes/scoring.yaml").read_text())
    container = nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    planned = int(datetime(2026, 11, 25, 0, 30, tzinfo=UTC).timestamp()) // 60  # for the night before, whenever it runs
    today = {"JOB": f"nightly-{planned}", "RECORDINGS": str(tmp_path / "calls"), "SCORES": str(tmp_path / "scores")}
    command = [*container["command"], *container["args"]]
    environment = launched | today | {"OPTIONS": "--device cpu --actors 1"}
    job = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stdout + job.stderr
    rows = dataset.dataset(tmp_path / "scores/2026-11-24/scores").to_table().to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"]


@pytest.mark.timeout(180)
def test_gpus_are_brought_up_and_shared_out(launched):
    # its stderr is left to pytest, which shows it also where time runs out
    job = subprocess.run([sys.executable, "-c", BOOKED], env=launched, stdout=subprocess.PIPE, text=True)
    assert job.returncode == 0
    booked = json.loads(job.stdout.splitlines()[-1])
    assert booked["places"] == ["gpu", "gpu"] and booked["before"][1] == 0
    # half of the CPUs of a GPU's own machine, whatever others there are: the rest is for cutting
    assert (booked["gpus"], booked["cpus"], booked["threads"]) == (1, 4, 8)
