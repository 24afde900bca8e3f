import pytest
import ray

from pipelines import cluster
from pipelines.cluster import CUT_CPUS, Pool
from sqllm.errors import UsageError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def hold(local_ray, monkeypatch):
    """hold(cpus): another job that books so many of the four CPUs."""
    monkeypatch.setattr(cluster, "SETTLE_S", 20)
    Pool.fit(1, None, "cpu")  # what earlier tests had is given back
    monkeypatch.setattr(cluster, "SETTLE_S", 1)
    held = []

    def book(cpus):
        held.append(ray.remote(Idle).options(num_cpus=cpus).remote())
        ray.get(held[-1].ready.remote())

    yield book
    for actor in held:
        ray.kill(actor)


class Idle:
    def ready(self):
        return True


@pytest.mark.parametrize("actors", [None, 1, 4])
def test_a_run_books_what_others_leave(hold, actors):
    hold(2.5)
    pool = Pool.fit(100, actors, "cpu")
    assert pool.actors == (actors or 1) and pool.actors * pool.cpus + CUT_CPUS <= 1.5


def test_a_run_that_could_not_start_is_refused(hold):
    hold(3.5)
    for actors in (None, 8):
        with pytest.raises(UsageError, match=r"other jobs hold 3.5 of the 4 CPUs .* wait for them"):
            Pool.fit(100, actors, "cpu")


def test_gpus_that_others_hold_are_refused(local_ray, monkeypatch):
    monkeypatch.setattr(cluster, "SETTLE_S", 0)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setattr(cluster.ray, "available_resources", lambda: {"CPU": 8.0, "GPU": 0.5})
    with pytest.raises(UsageError, match=r"other jobs hold the 2 GPUs .* --device cpu"):
        Pool.fit(100, None, "auto")


def test_tasks_share_the_gpus_of_their_machine(monkeypatch):
    def nodes(*resources, free=1.0):
        monkeypatch.setattr(cluster.ray, "available_resources", lambda: {"GPU": free} if free else {})
        monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": each} for each in resources])
        return cluster.gpu_share()

    assert nodes({"CPU": 16}, free=0) == nodes({"CPU": 8, "GPU": 1}, free=0.5) == 0  # the other half is another job's
    assert nodes({"CPU": 64}, {"CPU": 8, "GPU": 1}) == 1 / 8
    assert nodes({"CPU": 192, "GPU": 1}) == 1 / 16
    assert nodes({"GPU": 4}) == nodes({"CPU": 4, "GPU": 8}) == 1
