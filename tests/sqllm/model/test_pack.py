from dataclasses import replace

import torch
from safetensors.torch import save_file

from sqllm.model import pack
from sqllm.model.store import load_encoder


def test_eight_bits_are_as_near_as_their_step():
    w = torch.randn(5, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 5)[:, None]
    packed = pack.pack8(w)
    assert packed["q8"].dtype == torch.int8 and packed["q8"].shape == (5, 96) and packed["scale"].shape == (5, 3)
    back = pack.unpack8(packed["q8"], packed["scale"])
    largest = w.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True)
    # half a step, and what rounding the step to float16 adds
    assert ((back - w).unflatten(-1, (-1, 32)).abs() <= largest * (0.5 / 127 + 2**-10)).all()
    assert not pack.unpack8(*pack.pack8(torch.zeros(2, 32)).values()).any()


def test_four_bits_come_back_exactly():
    g = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (3, 64), generator=g, dtype=torch.uint8)
    scale, minimum = torch.rand(3, 2, generator=g).half(), torch.randn(3, 2, generator=g).half()
    packed = pack.pack4(q, scale, minimum)
    assert packed["q4"].shape == (3, 32)
    expected = q.float() * scale.float().repeat_interleave(32, 1) + minimum.float().repeat_interleave(32, 1)
    assert torch.equal(pack.unpack4(packed["q4"], packed["scale"], packed["min"]), expected)
    both = pack.unpack({f"a.{k}": v for k, v in packed.items()} | {"b.weight": torch.ones(3).half()})
    assert both.keys() == {"a", "b.weight"} and torch.equal(both["a"], expected)


def test_a_packed_encoder_hears_the_same(config, speech, tmp_path):
    plain = load_encoder(config()).eval()
    state = plain.model.state_dict()
    packed = pack.pack_encoder(state, 500)
    assert sum(n.endswith(".q8") for n in packed) > 10
    back = pack.unpack(packed)
    assert back.keys() == state.keys() and all(back[n].numel() == w.numel() for n, w in state.items())
    (tmp_path / "encoder").mkdir()
    save_file(packed, tmp_path / "encoder" / "packed.safetensors")
    plain.config.save_pretrained(tmp_path / "encoder")
    small = load_encoder(replace(config(), encoder="encoder"), tmp_path).eval()
    x, n = speech(3.0)[None], torch.tensor([48000])
    with torch.no_grad():
        error = small(x, n) - plain(x, n)
    assert 0 < error.square().mean().sqrt() < 0.05
