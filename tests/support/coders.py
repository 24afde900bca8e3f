import pytest

from sqllm.audio import coders
from sqllm.errors import UsageError


def needed() -> None:
    """Skip what simulates where the coders are not installed."""
    try:
        coders.check()
    except UsageError as error:
        pytest.skip(str(error), allow_module_level=True)
