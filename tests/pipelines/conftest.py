import itertools

import fsspec
import numpy as np
import pytest
import soundfile
from support import seaweed
from support.proxy import proxy
from support.standin import loader

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server behind a proxy that can be told to fail; the standard variables name it."""
    with (
        seaweed.server(tmp_path_factory.mktemp("seaweed")) as store,
        proxy(store) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**seaweed.KEYS, "AWS_ENDPOINT_URL": server.address}.items():
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        server.direct = fsspec.filesystem("s3", endpoint_url=store)  # around the proxy: what tests themselves do
        yield server


@pytest.fixture
def bucket(s3_server):
    """The URI of an empty bucket."""
    name = f"bucket-{next(NUMBERS)}"
    s3_server.direct.mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def local_ray(s3_server):
    """One Ray for all tests; its CPUs are only logical. Its workers know the S3 server."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 28)
    yield
    ray.shutdown()


@pytest.fixture
def stand_in():
    """`load` for a scorer without a model."""
    return loader()


def talk(seconds: float, rate: int = 16000, channels: int = 1) -> np.ndarray:
    """Noise in syllables: float [n, channels] that passes for speech."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal((len(time), channels))
    return 0.1 * noise * np.clip(np.sin(2 * np.pi * 2 * time), 0, 1)[:, None]


@pytest.fixture
def record():
    """record(path, seconds=2, rate=16000, channels=1, **soundfile's) writes a recording."""

    def write(path, seconds=2.0, rate=16000, channels=1, **kwargs):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, talk(seconds, rate, channels), rate, **kwargs)
        return path

    return write
