"""Two floors, one direction: `sqllm` knows neither Ray nor MLflow nor `pipelines`; the command line starts light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sqllm

FORBIDDEN = {"ray", "mlflow", "pipelines", "deploy"}
FILES = sorted(Path(sqllm.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(Path(sqllm.__file__).parent)))
def test_sqllm_imports_nothing_from_above(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not FORBIDDEN & {name.split(".")[0] for name in names}, f"line {node.lineno}"


def loaded(statement: str) -> set[str]:
    command = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.timeout(120)
def test_sqllm_runs_without_ray():
    assert not FORBIDDEN & loaded("import sqllm; import sqllm.recording; from sqllm import Predictor")


def test_the_command_line_starts_light():
    assert not {"ray", "torch", "pyarrow", "scipy"} & loaded("import pipelines.cli")
