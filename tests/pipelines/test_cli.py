import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines
from pipelines import cli

HERE = {**os.environ, "PYTHONPATH": str(Path(pipelines.__file__).parent.parent)}


def sqllm(*arguments, cwd=None):
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=HERE)


@pytest.mark.parametrize("command", [(), ("score",), ("ask",), ("show",), ("bench",)])
def test_help(command):
    done = sqllm(*command, "--help")
    assert done.returncode == 0 and "Usage: sqllm" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["score", "absent", "--out", "o"], "no such file or folder: absent"),
        (["score", "*.wav", "--out", "o"], "nothing matches *.wav"),
        (["score", "."], "--out"),
        (["score", ".", "--out", "o"], "no recordings in ."),
        (["score", ".", "--out", "o", "--actors", "0"], "--actors"),
        (["score", ".", "--out", "o", "--device", "tpu"], "tpu"),
        (["score", ".", "--out", "o", "--explain", "below=9"], "below=2.5"),
        (["score", ".", "--out", "o", "--explain", "perhaps"], "below=2.5"),
        (["score", ".", "--out", "o", "--max-failure-rate", "2"], "--max-failure-rate"),
        (["score", ".", "--out", "o", "--config", "absent.yaml"], "cannot read --config absent.yaml"),
        (["score", ".", "--out", "o", "--speed", "3"], "--speed"),
        (["score", "file.txt", "--out", "file.txt/o"], "cannot write to --out"),
        (["score", "file.txt", "--out", "o", "--model", "absent"], "absent"),
        (["score", "file.txt", "--out", "o", "--profile", "absent"], "absent"),
        (["ask", "absent.wav", "is it noisy?"], "no such file: absent.wav"),
        (["show", "."], "no scores in ."),
        (["dance"], "dance"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, arguments, reason):
    (tmp_path / "file.txt").write_text("not audio")
    done = sqllm(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("sqllm: ") and reason in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_config_stands_in_for_options_and_the_command_line_wins(tmp_path):
    (tmp_path / "score.yaml").write_text("source: absent\nout: o\nmax-failure-rate: 0.1\n")
    assert "folder: absent" in sqllm("score", "--config", "score.yaml", cwd=tmp_path).stderr
    assert "folder: other" in sqllm("score", "other", "--config", "score.yaml", cwd=tmp_path).stderr
    (tmp_path / "score.yaml").write_text("speed: 3\n")
    assert "no option 'speed'" in sqllm("score", ".", "--out", "o", "--config", "score.yaml", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("command", "words"), [("train", "--resume goes on"), ("score", "sqllm show DIR"), ("ask", "")]
)
def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, command, words):
    monkeypatch.setattr(cli, "app", lambda *_, **__: 130)
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "x"])
    assert ended.value.code == 130
    told = capsys.readouterr().err
    assert words in told and told.startswith("sqllm: interrupted")
