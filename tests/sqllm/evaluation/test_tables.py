import numpy as np
import pytest

from sqllm.errors import UsageError
from sqllm.evaluation.tables import comparisons, figures, not_judged, predictions, statuses, without_votes


def judgements(noise, ended="single", sets=("A",), n=60, seed=0, **more):
    rng = np.random.default_rng(seed)
    true = rng.uniform(1, 5, n)
    rng = np.random.default_rng([seed, int(noise * 1000)])
    predicted = true + noise * rng.standard_normal(n)
    return [
        {"clip": i, "dim": "mos", "ended": ended, "set": sets[i % len(sets)], "condition": f"c{i // 4}", "true": t,
         "predicted": p, **more}
        for i, (p, t) in enumerate(zip(predicted, true, strict=True))
    ]  # fmt: skip


def test_a_figure_for_each_set_and_for_all():
    found = figures(judgements(0.4, sets=("A", "B")))
    assert [(f["by"], f["group"], f["level"]) for f in found] == [
        (by, group, level)
        for by, group in (("all", "all"), ("set", "A"), ("set", "B"))
        for level in ("clip", "condition")
    ]
    assert [f["n"] for f in found] == [60, 30, 30, 15, 30, 15]
    assert {f["group"] for f in figures(judgements(0.4))} == {"A"}  # one set is no pool


def test_languages_and_spread_have_their_own():
    rows = judgements(0.4, std=0.7, votes=12)
    for j in rows:
        j["lang"] = "de" if j["clip"] % 2 else "en"
    found = figures([*rows, *({**j, "dim": "mos_std"} for j in rows)])
    assert {(f["by"], f["group"]) for f in found} == {("set", "A"), ("lang", "de"), ("lang", "en")}
    assert {f["dim"] for f in found} == {"mos", "mos_std"} and "rmse_star" in found[0]


def test_answers_without_a_number_are_counted_and_left_out():
    rows = judgements(0.2)
    rows[0]["predicted"] = rows[1]["predicted"] = None
    clip = figures(rows)[0]
    assert clip["n"] == 58 and clip["missing"] == 2
    few = figures([{**j, "predicted": None} for j in rows])[0]
    assert few["n"] == 0 and few["missing"] == 60 and "r" not in few


def test_double_ended_is_compared_on_the_same_clips():
    single, double = judgements(0.8), judgements(0.1, "double")
    gain, of_conditions = comparisons([*single, *double[:40]])
    assert gain["n"] == 40 and gain["difference"] > 0 and gain["difference_95"][0] > 0
    assert gain["model"] == pytest.approx(figures(single[:40])[0]["r"])
    assert (of_conditions["level"], of_conditions["n"]) == ("condition", 10)
    assert comparisons(single) == []
    errors = comparisons([*single, *double[:40]], "r", "rmse")
    assert [e["statistic"] for e in errors] == ["r", "rmse"] * 2
    assert errors[0] == gain and errors[1]["difference_95"][1] < 0


def test_peers_stand_beside_the_model_set_by_set():
    model = judgements(0.1, judge="model", sets=("A", "B"))
    peer = judgements(0.9, judge="peer", sets=("A", "B"))[:44]
    rows = comparisons([*model, *peer], "rho")
    assert [(r["group"], r["judge"], r["n"]) for r in rows if r["level"] == "clip"] == [
        ("A", "peer", 22),
        ("B", "peer", 22),
    ]
    assert all(r["statistic"] == "rho" and r["difference_95"][1] < 0 for r in rows if r["level"] == "clip")
    assert [f["judge"] for f in figures([*model, *peer]) if f["group"] == "A"] == ["model", "model", "peer", "peer"]


def test_of_another_scale_only_ranks_are_told():
    rows = [j | {"true": 20 * j["true"]} for j in judgements(0.4)]
    [clip, _] = figures(rows, ranks=True)
    assert clip["rho"] == pytest.approx(figures(judgements(0.4))[0]["rho"]) and {
        "r",
        "mae",
        "rmse",
        "mapped",
    }.isdisjoint(clip)


def test_predictions_as_the_paper_writes_them(tmp_path):
    path = tmp_path / "p.csv"
    lines = [f"multi_dim,,noi,{1 + i / 10},{1 + i / 8},success" for i in range(20)]
    path.write_text("\n".join(["task,question,dim,y_true,y_pred,status", *lines, "multi_dim,,col,3,,no_number"]) + "\n")
    rows = predictions(path)
    assert statuses(rows) == {"success": 20, "no_number": 1}
    clip = next(f for f in figures(rows) if f["dim"] == "noi")
    assert clip["n"] == 20 and clip["r"] == pytest.approx(1) and clip["task"] == "multi_dim"
    for text, reason in (("a,b\n1,2\n", "y_true"), ("y_true,y_pred\n1,good\n", "line 2"),
                         ("y_true,y_pred,dim\n1,2,loudness\n", "loudness")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UsageError, match=reason):
            predictions(path)
    path.write_text("y_true,y_pred\n70,3\n,3\n")
    with pytest.raises(UsageError, match=r"line 2: y_true is 70.*--ranks"):
        predictions(path)
    assert without_votes(predictions(path, ranks=True)) == 1
    with pytest.raises(UsageError, match="absent"):
        predictions(tmp_path / "absent.csv")
    (tmp_path / "p.csv").write_text("y_true,y_pred\n")
    with pytest.raises(UsageError, match="no rows"):
        predictions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("y_true,y_pred\n3,nan\n")
    assert predictions(tmp_path / "p.csv")[0]["predicted"] is None


def test_few_conditions_have_no_interval():
    few = figures(judgements(0.5)[:21])  # of seven conditions
    assert few[0]["n"] == 21 and "r_95" not in few[0] and few[0]["r"] > 0
    [gain, *_] = comparisons([*judgements(0.8)[:21], *judgements(0.1, "double")[:21]])
    assert gain["difference"] > 0 and np.isnan(gain["difference_95"][0])


def test_few_conditions_are_judged_by_their_references():
    def heard(noise, ended="single"):  # 16 talks through 7 codecs
        return [
            j | {"condition": f"c{j['clip'] % 7}", "reference_uri": f"{j['clip'] // 7}.flac"}
            for j in judgements(noise, ended, n=112)
        ]

    alone, of_conditions = figures(heard(0.5))
    assert alone["r_95"][0] < alone["r"] < alone["r_95"][1] and "r_95" not in of_conditions
    gain, of_conditions = comparisons([*heard(0.8), *heard(0.1, "double")])
    assert gain["difference_95"][0] > 0 and np.isnan(of_conditions["difference_95"][0])
    own = [j | {"reference_uri": f"{j['clip']}.flac"} for j in heard(0.5)]  # nothing is shared
    assert "r_95" not in figures(own)[0]


def test_what_was_not_judged_is_counted_once_a_recording():
    rows = [j | {"predicted": None, "error": "DECODE", "judge": "m"} for j in judgements(0.5)[:2]]
    rows += [j | {"dim": "noi"} for j in rows] + [rows[0] | {"ended": "double", "error": "REFERENCE"}]
    assert not_judged([*rows, *judgements(0.5)]) == {"DECODE (m single)": 2, "REFERENCE (m double)": 1}
