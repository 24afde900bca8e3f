import pytest
from transformers import ASTConfig, LlamaConfig

from pipelines.cli import main
from sqllm import shapes
from sqllm.model.config import PRESETS


@pytest.mark.timeout(240)
def test_all_ways_of_the_papers_model_in_one_table(monkeypatch, capsys):
    """The documented command; only the sizes are small."""
    paper = PRESETS["paper"]
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaConfig(vocab_size=49152, num_key_value_heads=2, **small)
    monkeypatch.setattr(shapes, "SHAPES", {paper.encoder: ASTConfig(**small), paper.language_model: llama})
    monkeypatch.setattr(shapes, "PEAK", {"cpu": 64})
    monkeypatch.setattr(shapes, "STEPS", 4)
    with pytest.raises(SystemExit) as done:
        main(["bench", "--preset", "paper", "--random-weights", "--device", "cpu"])
    told = capsys.readouterr()
    assert done.value.code == 0, told.err
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in told.out.splitlines() if line.startswith("│")]
    ways = ("answer tree", "write and parse")
    assert rows == [[way, weights, "4"] for weights in ("bf16", "nf4") for way in ways]
    assert "tokens/s" in told.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--preset", "paper"], "--random-weights"), (["--preset", "no", "--random-weights"], "paper-whisper")],
)
def test_what_cannot_be_measured_is_said(capsys, options, reason):
    with pytest.raises(SystemExit) as done:
        main(["bench", *options])
    told = capsys.readouterr()
    assert done.value.code == 2 and reason in told.err and told.err.count("\n") == 1
