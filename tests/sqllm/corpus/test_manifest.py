import pyarrow as pa
import pytest
from pyarrow import parquet

from sqllm.corpus.manifest import leakage, read
from sqllm.errors import UsageError

HEAD = ("db,con,file,con_description,filename_deg,filename_ref,source,lang,votes,mos,noi,col,dis,loud,mos_std,noi_std,"
        "col_std,dis_std,loud_std,filepath_deg,filepath_ref")  # fmt: skip


def line(db, con, name, ref=True, dims="4.1,3.9,4.2,4.0", talker="t1"):
    stds = ",".join(["0.7"] * 5) if dims[0] != "," else "0.7,,,,"
    there = f"{db}/ref/{name}" if ref else ""
    return (
        f"{db},{con},1,white noise,{name},{name if ref else ''},{talker},en,5,3.5,{dims},{stds},{db}/deg/{name},{there}"
    )


@pytest.fixture
def nisqa(tmp_path):
    """The layout of the NISQA corpus in miniature."""
    sets = {
        "NISQA_TRAIN_SIM": [line("NISQA_TRAIN_SIM", 1, "a.wav"), line("NISQA_TRAIN_SIM", 2, "b.wav")],
        "NISQA_VAL_LIVE": [line("NISQA_VAL_LIVE", 1, "c.wav", ref=False, talker="t2")],
        "NISQA_TEST_P501": [line("NISQA_TEST_P501", 7, "d.wav", dims=",,,", talker="t3")],
    }
    for name, lines in sets.items():
        (tmp_path / name / "deg").mkdir(parents=True)
        (tmp_path / name / f"{name}_file.csv").write_text("\n".join([HEAD, *lines]) + "\n")
        (tmp_path / name / f"{name}_con.csv").write_text("db,con,mos\n")
    return tmp_path


def test_the_nisqa_corpus_as_it_unpacks(nisqa):
    table = read(nisqa)
    rows = {row["uri"]: row for row in table.to_pylist()}
    a, c, d = (rows[str(nisqa / f"{name}")] for name in
               ("NISQA_TRAIN_SIM/deg/a.wav", "NISQA_VAL_LIVE/deg/c.wav", "NISQA_TEST_P501/deg/d.wav"))  # fmt: skip
    assert (a["split"], c["split"], d["split"]) == ("train", "val", "test")
    assert a["reference_uri"] == str(nisqa / "NISQA_TRAIN_SIM/ref/a.wav") and c["reference_uri"] is None
    assert (a["mos"], a["noi"], a["loud_std"], a["votes"]) == (3.5, 4.1, 0.7, 5) and a["condition"] == "1"
    assert d["mos"] == 3.5 and d["noi"] is None and d["noi_std"] is None
    assert a["con_description"] == "white noise"  # what else there is comes along
    assert leakage(table.to_pylist()) is None


def test_one_set_or_the_file_of_all(nisqa):
    assert read(nisqa / "NISQA_TRAIN_SIM").column("uri").to_pylist()[0] == str(nisqa / "NISQA_TRAIN_SIM/deg/a.wav")
    (nisqa / "NISQA_corpus_file.csv").write_text("\n".join([HEAD, line("NISQA_TRAIN_SIM", 1, "a.wav")]) + "\n")
    table = read(nisqa)
    assert len(table) == 1 and table["uri"][0].as_py() == str(nisqa / "NISQA_TRAIN_SIM/deg/a.wav")


def test_any_table_with_a_mapping(tmp_path):
    (tmp_path / "r.csv").write_text("deg,score,kind\nx/1.wav,3.2,a\ns3://b/2.wav,,a\n3.wav,90,b\n")
    rows = read(tmp_path / "r.csv", {"uri": "deg", "mos": "score"}, {"kind": "a"}).to_pylist()
    assert [row["uri"] for row in rows] == [str(tmp_path / "x/1.wav"), "s3://b/2.wav"]
    assert [row["mos"] for row in rows] == [3.2, None] and rows[0]["kind"] == "a" and rows[0]["dis"] is None
    parquet.write_table(pa.table({"uri": ["a.wav"], "noi": [2]}), tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet")["noi"].to_pylist() == [2.0]


def test_a_mapping_may_exchange_columns_and_use_one_twice(tmp_path):
    (tmp_path / "r.csv").write_text("uri,overall,mos,db\na.wav,4.5,2.0,x\n")
    [row] = read(tmp_path / "r.csv", {"mos": "overall", "noi": "mos", "set": "db", "condition": "db"}).to_pylist()
    assert (row["mos"], row["noi"], row["set"], row["condition"]) == (4.5, 2.0, "x", "x")
    assert not {"overall", "db"} & set(row)


@pytest.mark.parametrize(
    ("text", "columns", "reason"),
    [
        ("uri,mos\na.wav,61\n", {}, "from 61 to 61"),
        ("file,mos\na.wav,3\n", {}, "'uri'"),
        ("uri,mos\na.wav,good\n", {}, "row 1: mos is 'good'"),
        ("uri,mos\na.wav,3\n,4\n", {}, "no uri in row 2"),
        ("uri,label\na.wav,3\n", {}, "no ratings"),
        ("uri,mos\na.wav,3\n", {"mos": "vote"}, "'vote'"),
        ("uri,mos\na.wav,3\n", {"overall": "mos"}, "'overall'"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, text, columns, reason):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(UsageError, match=reason):
        read(tmp_path / "r.csv", columns)


def test_what_is_no_corpus_is_said(tmp_path):
    with pytest.raises(UsageError, match="NISQA"):
        read(tmp_path)
    with pytest.raises(UsageError, match="no corpus"):
        read(tmp_path / "absent.csv")


@pytest.mark.parametrize(("column", "what"), [("speaker", "speaker"), ("uri", "recording"), ("condition", "condition")])
def test_leakage_is_named(column, what):
    rows = [{"split": s, "uri": f"{s}.wav", "speaker": s, "set": "x", "condition": s} for s in ("train", "test")]
    rows[1][column] = rows[0][column]
    found = leakage(rows)
    assert what in found and "train and test" in found
