from pipelines import curves


def test_a_line_that_was_cut_off_goes(tmp_path):
    assert curves.read(tmp_path) == []
    curves.add(tmp_path, "scores", {"step": 4, "loss": 2.0})
    with open(tmp_path / curves.FILE, "a") as file:
        file.write('{"stage": "scores", "st')
    assert [line["step"] for line in curves.read(tmp_path)] == [4]
    curves.add(tmp_path, "scores", {"step": 8, "loss": 1.0})
    assert [line["step"] for line in curves.read(tmp_path)] == [4, 8]


def test_the_curves_of_what_was_told():
    lines = [{"stage": "scores", "step": n, "loss": 1 / n, "r_mos": 0.1 * n, "mae_mos": 0.5} for n in (4, 8)]
    loss, r, mae = curves.figure([*lines, {"stage": "words", "step": 4, "loss": 3.0}]).axes
    assert [line.get_label() for line in loss.lines] == ["scores", "words"]
    assert list(r.lines[0].get_ydata()) == [0.4, 0.8] and len(mae.lines) == 1
