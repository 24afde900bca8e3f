import threading
import time

import pytest

from pipelines import lease
from pipelines.lease import only_writer
from sqllm import storage
from sqllm.errors import UsageError


@pytest.fixture(params=["here", "s3"])
def out(request, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.3)
    monkeypatch.setattr(lease, "SETTLED_S", 0.2)
    return str(tmp_path / "out") if request.param == "here" else f"{request.getfixturevalue('bucket')}/out"


def test_only_one_run_writes(out):
    with only_writer(out) as may_write, pytest.raises(UsageError, match="another run"):
        assert may_write()
        with only_writer(out):
            raise AssertionError
    with only_writer(out):  # the first is over
        pass


@pytest.mark.parametrize("out", ["s3"], indirect=True)
def test_a_lease_that_is_not_renewed_is_taken_over(out):
    place, told = f"{out}/.lease", []
    storage.write(place, b"of a run that was killed")
    with only_writer(out, told.append):
        assert told == ["waiting for the end of another run"]
        with pytest.raises(UsageError, match="another run"), only_writer(out):
            raise AssertionError
    assert storage.stat(place) is None


@pytest.mark.parametrize("out", ["s3"], indirect=True)
def test_of_two_that_take_over_one_wins(out):
    storage.write(f"{out}/.lease", b"of a run that was killed")
    won, refused, both = [], [], threading.Barrier(2)

    def run():
        both.wait()
        try:
            with only_writer(out):
                won.append(True)
                both.wait(20)
        except UsageError:
            refused.append(True)
            both.wait(20)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(refused) == 1


@pytest.mark.parametrize("out", ["s3"], indirect=True)
def test_a_run_that_lost_its_lease_may_not_write_and_leaves_it(out):
    with only_writer(out) as may_write:
        assert may_write()
        storage.write(f"{out}/.lease", b"of another run")
        until = time.monotonic() + 20
        while may_write() and time.monotonic() < until:
            time.sleep(0.05)
        assert not may_write()
    assert storage.read(f"{out}/.lease") == b"of another run"
