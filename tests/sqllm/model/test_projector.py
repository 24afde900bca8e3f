import torch

from sqllm.model.projector import Projector


def projectors():
    torch.manual_seed(0)
    plain, heard = Projector(3, 16, 24), Projector(3, 16, 24, context=True)
    heard.load_state_dict(plain.state_dict(), strict=False)
    return plain, heard, torch.randn(2, 3, 8, 16), torch.randn(2, 3, 8, 16)


def test_context_adds_nothing_at_first():
    plain, heard, audio, reference = projectors()
    for a, b in zip(plain(audio, reference), heard(audio, reference), strict=True):
        assert torch.equal(a, b)


def test_with_context_a_token_hears_its_window_and_the_reference_the_recording():
    _, heard, audio, reference = projectors()
    for context in (heard.context, heard.difference):
        torch.nn.init.normal_(context.outside.weight)
    [alone] = heard(audio)
    far = audio.clone()
    far[:, :, -1] = torch.randn(2, 3, 16)
    assert not torch.allclose(heard(far)[0][:, 0], alone[:, 0])  # through the window's mean and spread
    both = heard(audio, reference)
    assert torch.equal(both[0], alone)  # a reference does not change what is heard of the recording
    assert not torch.allclose(heard(far, reference)[1][:, 0], both[1][:, 0])
    changed = heard(torch.cat([audio[:1], far[1:]]))[0]
    assert torch.allclose(changed[0], alone[0], atol=1e-6)  # nor one clip of a batch another
