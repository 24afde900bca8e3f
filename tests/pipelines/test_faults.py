"""What must not cost a row: processes, machines and stores that fail while a run goes on."""

import multiprocessing
import os
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import dataset
from ray.cluster_utils import Cluster
from support import night
from support.standin import fingerprints, loader

from pipelines.score import Settings, score
from pipelines.sink import row_schema
from pipelines.sources import find
from sqllm import recording
from sqllm.errors import UsageError
from sqllm.recording import cut

KILLS = 10


def same(rows) -> list[dict]:
    """What must be the same whatever happened on the way, one for each row."""
    kept = ("channel", "status", "error_code", "mos", "noi", "duration_s", "speech_s")
    names = [{"name": os.path.basename(row["uri"])} | {name: row[name] for name in kept} for row in rows]
    return sorted(names, key=lambda row: (row["name"], row["channel"] or 0))


def undisturbed(folder) -> list[dict]:
    """The rows of all recordings, made here and now, without Ray."""
    model, table = loader()("", "cpu", 1), []
    for file in sorted(folder.iterdir()):
        chunks = list(cut(str(file)))
        table += recording.rows(zip(chunks, model.score_chunks(chunks), strict=True))
    schema = row_schema(pa.schema([]))  # as they are stored, so in its precision
    return same(pa.Table.from_pylist(table, schema=schema).to_pylist())


def rows_of(out) -> list[dict]:
    return dataset.dataset(Path(out) / "scores").to_table().to_pylist()


@pytest.fixture
def calls(tmp_path, record):
    """calls(count) -> a folder of so many recordings and, first, one that is broken and one that is long."""

    def make(count):
        folder = tmp_path / "calls"
        for number in range(count):
            record(folder / f"{number:03}.wav", seconds=1.0 + number % 3, rate=8000, channels=1 + number % 2)
        (folder / "000.wav").write_text("not audio")
        record(folder / "001.flac", seconds=45.0, rate=8000, channels=2)
        return folder

    return make


# ---- processes


@pytest.mark.timeout(240)
def test_a_recording_that_kills_its_process_costs_itself(local_ray, calls, tmp_path, monkeypatch):
    def deadly_cut(batch, **options):  # a decoder with a fault; a function in here, so that Ray pickles it
        import os

        from pipelines import stages

        whole = cut

        def fatal(uri, *more, **options):
            if "undecodable" in uri:
                os._exit(1)
            yield from whole(uri, *more, **options)

        stages.cut = fatal
        yield from stages.cut_recordings(batch, **options)

    folder = calls(12)
    os.link(folder / "004.wav", folder / "deadly.wav")
    os.link(folder / "004.wav", folder / "undecodable.wav")
    monkeypatch.setattr("pipelines.score.cut_recordings", deadly_cut)
    totals = score(find([str(folder)]), tmp_path / "out", Settings(actors=2, device="cpu"), loader())
    rows = {(os.path.basename(row["uri"]), row["channel"]): row for row in rows_of(tmp_path / "out")}
    bad = {name: row["error_code"] for (name, _), row in rows.items() if row["status"] != "ok"}
    assert bad == {"000.wav": "DECODE", "deadly.wav": "CRASH", "undecodable.wav": "DECODE"}
    assert "3 processes died" in rows["deadly.wav", 0]["error_detail"]
    assert "3 processes died" in rows["undecodable.wav", None]["error_detail"]
    again = score(find([str(folder)]), tmp_path / "out", Settings(device="cpu"), loader(), fingerprints=fingerprints)
    assert again.kept == again.done == 15  # nothing that kills is tried again
    assert totals.done == 15 and len(rows) == len(rows_of(tmp_path / "out")) == 1 + 2 + 1 + 1 + 6 * 2 + 5


@pytest.mark.timeout(240)
def test_a_model_that_kills_every_process_is_refused(local_ray, record, tmp_path):
    def load(model, device, threads):
        os._exit(1)

    with pytest.raises(UsageError, match="3 processes died of it"):
        score(find([str(record(tmp_path / "a.wav"))]), tmp_path / "out", Settings(actors=1, device="cpu"), load)


# ---- a store


@pytest.mark.timeout(240)
def test_a_store_that_fails_once_in_ten_requests_costs_nothing(local_ray, s3_server, bucket, calls):
    folder = calls(50)
    s3_server.direct.put(str(folder), f"{bucket}/calls", recursive=True)
    out = f"{bucket}/out"
    with s3_server.faulty(0.1) as faults:
        totals = score(find([f"{bucket}/calls"]), out, Settings(actors=2, device="cpu"), loader())
    print(f"\n{faults.total()} requests went wrong: {dict(faults)}")
    assert totals.finished and faults.total() > 3
    place = f"{out.removeprefix('s3://')}/scores"
    rows = dataset.dataset(place, filesystem=s3_server.direct, format="parquet").to_table().to_pylist()
    assert same(rows) == undisturbed(folder)
    assert s3_server.direct.exists(f"{bucket}/out/scores/fingerprint=stand-in/_SUCCESS")


# ---- drivers and machines


@pytest.fixture(scope="module")
def cluster():
    """A Ray of one logical machine, to which others can be added; no more processes than a run needs."""
    lean = {"enable_worker_prestart": False, "prestart_worker_first_driver": False, "health_check_period_ms": 1000}
    head = {"num_cpus": 4, "object_store_memory": 1 << 27, "_system_config": lean}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def drivers():
    """Where drivers are forked from: a process that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.night", "ray.data"])
    return context


@pytest.fixture
def drive(cluster, drivers, tmp_path):
    """drive(folder, out, pause_s, actors) -> the job as a process, and what it says."""
    running = []

    def start(folder, out, pause_s=0.0, actors=1):
        said, says = drivers.Pipe(duplex=False)
        arguments = (cluster.address, str(folder), str(out), pause_s, actors, says)
        process = drivers.Process(target=night.run, args=arguments)
        process.start()
        says.close()
        running.append(process)
        return process, said

    yield start
    for process in running:
        process.kill()
        process.join()


def scored(out: Path) -> Counter:
    """uri -> chunks of it that were scored."""
    log = out.with_suffix(".log")
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def written(out: Path) -> set[str]:
    return {row["uri"] for row in rows_of(out)} if (out / "scores").exists() else set()


def wait_for(driver, stage: str, out: Path) -> None:
    """Until the driver says that it has reached a stage."""
    try:
        while driver[1].recv() != stage:
            pass
    except EOFError:
        raise AssertionError(errors(out)) from None


def finish(driver, out: Path) -> None:
    with suppress(EOFError):
        while True:
            driver[1].recv()
    driver[0].join()
    assert driver[0].exitcode == 0, errors(out)


def errors(out: Path) -> str:
    return out.with_suffix(".errors").read_text()[-3000:]


@pytest.mark.timeout(600)
def test_a_driver_that_is_killed_ten_times_loses_nothing(drive, calls, tmp_path):
    folder, out = calls(160), tmp_path / "out"
    rng, kills, before = random.Random(), 0, []
    for kill in range(KILLS):
        process, _ = driver = drive(folder, out, 0.1)
        if kill % 3:
            wait_for(driver, "scoring", out)
            time.sleep(rng.uniform(0, 2))
        else:  # while it starts, looks at what is there, loads or begins
            time.sleep(rng.uniform(0.2, 6))
        kills += process.is_alive()
        process.kill()
        process.join()
        before.append((written(out), scored(out)))
    finish(drive(folder, out), out)
    assert kills == KILLS
    assert same(rows_of(out)) == undisturbed(folder)
    often = scored(out)
    for stood, counts in before:  # what was written by then was never scored again
        assert not {uri for uri in stood if often[uri] > counts[uri]}
    chunks = Counter(row["uri"] for row in rows_of(out) for _ in range(len(row["windows"] or "-") // 32 + 1))
    again = [uri for uri in often if often[uri] > chunks[uri]]
    extra = often.total() - chunks.total()
    print(f"\n{kills} kills: {len(again)} of {len(chunks)} recordings were scored again, {extra} chunks too many")


@pytest.mark.timeout(600)
def test_a_machine_that_is_lost_costs_nothing(drive, cluster, calls, tmp_path):
    folder, out = calls(60), tmp_path / "out"
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=1 << 27) for _ in range(2)]
    process, _ = driver = drive(folder, out, 0.1, actors=3)
    wait_for(driver, "scoring", out)
    time.sleep(1)
    assert process.is_alive()
    cluster.remove_node(nodes[0], allow_graceful=False)
    finish(driver, out)
    assert same(rows_of(out)) == undisturbed(folder)
