import torch

from sqllm import bench
from sqllm.model import store


def test_prints_the_three_ways_side_by_side(config, tmp_path, capsys):
    store.save(store.create(config(score_layers=1)), tmp_path)
    threads = torch.get_num_threads()
    bench.run(str(tmp_path), "cpu", "float32")
    out = capsys.readouterr().out
    for words in ("answer tree, single-ended", "answer tree, double-ended", "generate and parse", "float32", "8 audio"):
        assert words in out
    assert torch.get_num_threads() == threads
