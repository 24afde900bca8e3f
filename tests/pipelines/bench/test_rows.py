import pytest

from pipelines.cli import main

pytestmark = pytest.mark.timeout(240)


def test_the_table(capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "rows", "60"])
    assert end.value.code == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip(" │").startswith("60"))
    figures = [float(value) for value in line.replace("│", " ").split()]
    assert figures[0] == 60 and figures[2] > 0 and figures[3] > 50 and figures[5] > 50
