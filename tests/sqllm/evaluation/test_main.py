import sys

import pytest

from sqllm.evaluation.__main__ import arguments


def asked(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["evaluation", *given])
    return arguments()


def test_the_model_may_be_named_before_or_after_the_command(monkeypatch):
    assert asked(monkeypatch, "words", "c").model == "embedded"
    assert asked(monkeypatch, "words", "c", "--model", "m").model == "m"
    before = asked(monkeypatch, "--model", "m", "--json", "words", "c", "--clips", "3")
    assert (before.model, before.json, before.clips, before.dtype) == ("m", True, 3, "auto")


@pytest.mark.parametrize(
    ("given", "reason"),
    [(["words", "c", "--clips", "0"], "--clips: 0 is not at least 1"), (["draws"], "--speech DIR")],
)
def test_what_cannot_be_asked_is_said(monkeypatch, capsys, given, reason):
    with pytest.raises(SystemExit):
        asked(monkeypatch, *given)
    assert reason in capsys.readouterr().err
