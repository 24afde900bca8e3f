import pytest
import torch

from sqllm.faults import PHRASES, noun
from sqllm.model import store
from sqllm.model.checklist import CHECK, check, costs, target
from sqllm.model.prompt import measured
from sqllm.model.scoring import encode

FACTS = ["level -26 dB, SNR 45 dB", "level -40 dB, SNR 3 dB, no dropouts"]


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    return store.create(config("whisper", "smollm2", score_layers=2)).eval()


def test_each_fault_gets_what_it_would_get_alone(model):
    """Against plain causal attention, one clip and one fault at a time."""
    audio = torch.randn(2, model.encoder.depth, 8, model.encoder.width)
    log = check(model, FACTS, audio)
    assert log.shape == (2, len(PHRASES), 5)
    for i, name in ((0, "echo"), (1, "noise"), (1, "reverb")):
        segments = [*model.prompt.audio(), model.prompt.context(measured(FACTS[i])), model.prompt.question(CHECK)]
        x = model.embed([*segments, encode(model.tokenizer, f"{noun(name)}: ")], audio[i : i + 1])
        hidden = model.language.run(x, None, torch.arange(x.shape[1])[None], model.language.score_layers)
        alone = model.language.score_logits(hidden[:, -1]).log_softmax(-1)
        digits = [encode(model.tokenizer, digit)[-1] for digit in "12345"]
        assert torch.allclose(log[i, list(PHRASES).index(name)], alone[0, digits], atol=1e-4)


def test_a_reference_is_heard(model):
    audio, reference = torch.randn(2, 1, model.encoder.depth, 8, model.encoder.width)
    assert not torch.allclose(check(model, FACTS[:1], audio), check(model, FACTS[:1], audio, reference))


def test_target_and_costs_are_each_others_inverse():
    cost = torch.tensor([[0.0, 0.25, 1.0, 3.6] + [0.0] * (len(PHRASES) - 4)])
    there = target(cost)
    assert torch.allclose(there.sum(-1), torch.ones(1, len(PHRASES)))
    assert there[0, 1].tolist() == [0, 0, 0, 0.25, 0.75]
    assert torch.allclose(torch.tensor(list(costs(there.log())[0].values())), cost[0], atol=1e-6)
