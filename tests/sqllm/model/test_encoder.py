import pytest
import torch
from torch.nn.functional import pad
from transformers import ASTForAudioClassification, WhisperModel

from sqllm.model.encoder import BUCKET, bucket_length, pooling
from sqllm.model.store import load_encoder


def lengths(*samples):
    return torch.tensor(samples)


@pytest.fixture(scope="module")
def encoders(config):
    return {
        (kind, layers): load_encoder(config(kind, encoder_layers=layers)).eval().requires_grad_(False)
        for kind in ("whisper", "ast")
        for layers in ("all", "last")
    }


def test_pooling_averages_the_frames_of_each_clip():
    p = pooling(lengths(500, 37, 8, 3, 1), 500, 8)
    torch.testing.assert_close(p.sum(-1), torch.ones(5, 8))
    assert (p >= 0).all()
    for row, n in zip(p, (500, 37, 8, 3, 1), strict=True):
        assert not row[:, n:].any()
        assert row[:, :n].any(0).all()  # and no frame of the clip is left out
    frames = torch.randn(1, 4, 37)
    torch.testing.assert_close((p[1, :, :37] @ frames[0].T).T[None], torch.nn.functional.adaptive_avg_pool1d(frames, 8))


def test_buckets_are_whole_seconds():
    assert [bucket_length(n) for n in (0, 1, BUCKET, BUCKET + 1)] == [BUCKET, BUCKET, BUCKET, 2 * BUCKET]


@pytest.mark.parametrize("layers", ["all", "last"])
@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_shape_and_independence_of_batch_mates(encoders, speech, kind, layers):
    encoder = encoders[kind, layers]
    clips = [speech(2.7, 0), speech(3.0, 1), 0.01 * speech(2.1, 2)]
    n = lengths(*map(len, clips))
    x = torch.stack([pad(c, (0, 3 * BUCKET - len(c))) for c in clips])
    together = encoder(x, n)
    assert together.shape == (3, 3 if layers == "all" else 1, 8, encoder.width) and encoder.depth == together.shape[1]
    for i in range(3):
        torch.testing.assert_close(encoder(x[i : i + 1], n[i : i + 1])[0], together[i], atol=1e-4, rtol=0)
    assert (together[0] - together[2]).abs().max() > 0.1  # and clips differ


def test_all_layers_are_normalised(encoders, speech):
    encoder = encoders["whisper", "all"]
    encoder.tokens, tokens = 100, encoder.tokens  # one frame each: pooling leaves them as they are
    out = encoder(speech(2.0)[None], lengths(2 * BUCKET))
    encoder.tokens = tokens
    torch.testing.assert_close(out.mean(-1), torch.zeros(out.shape[:-1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.var(-1, unbiased=False), torch.ones(out.shape[:-1]), atol=1e-2, rtol=0)


def test_last_is_the_output_of_transformers_whisper(encoders, speech):
    encoder, x = encoders["whisper", "last"], speech(10.0)[None]
    theirs = encoder.model(encoder.log_mel(x)).last_hidden_state
    assert theirs.shape[1] == 500
    pooled = torch.nn.functional.adaptive_avg_pool1d(theirs.transpose(1, 2), 8).transpose(1, 2)
    torch.testing.assert_close(encoder(x, lengths(10 * BUCKET))[:, 0], pooled, atol=1e-4, rtol=1e-4)


def test_last_is_the_output_of_transformers_ast_in_the_order_of_time(encoders, speech):
    encoder, x = encoders["ast", "last"], speech(10.24)[None]
    theirs = encoder.model(encoder.log_mel(x)).last_hidden_state[:, 2:].unflatten(1, (12, 101)).mean(1)
    encoder.tokens, tokens = 101, encoder.tokens  # a token for each column of patches
    ours = encoder(x, lengths(x.shape[1]))[:, 0]
    encoder.tokens = tokens
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_weights_are_those_of_the_directory(encoders, bases):
    whisper, ours = WhisperModel.from_pretrained(bases / "whisper").encoder, encoders["whisper", "all"].model
    assert torch.equal(ours.embed_positions.weight, whisper.embed_positions.weight[:500])  # 10 s
    assert torch.equal(ours.layers[1].fc2.weight, whisper.layers[1].fc2.weight)
    classifier = ASTForAudioClassification.from_pretrained(bases / "ast")
    state = classifier.audio_spectrogram_transformer.state_dict()
    ours = encoders["ast", "last"].model.state_dict()
    assert state.keys() == ours.keys() and all(torch.equal(ours[n], w) for n, w in state.items())


@pytest.mark.parametrize("seconds", [2.3, 9.2])
def test_silence_added_to_fill_a_bucket_barely_moves_whisper(encoders, speech, seconds):
    encoder, x = encoders["whisper", "all"], speech(seconds)[None]
    n = x.shape[1]
    padded = pad(x, (0, bucket_length(n) - n))
    alone, filled = encoder(x, lengths(n)), encoder(padded, lengths(n))
    pooled_too = encoder(padded, lengths(padded.shape[1]))
    moved = (filled - alone).square().mean().sqrt() / alone.std()
    assert moved < 0.25 and moved < (pooled_too - alone).square().mean().sqrt() / alone.std() / 3


def test_ast_patches_past_the_end_are_excluded(encoders, speech):
    encoder, x = encoders["ast", "all"], speech(6.0)[None]
    other = x.clone()
    other[:, 3 * BUCKET :] = speech(3.0, 5)
    n = lengths(3 * BUCKET)
    one, two = encoder(x, n), encoder(other, n)
    # before any attention, patches know nothing of the rest of the clip: pooled, they differ by those past its end only
    torch.testing.assert_close(one[:, 0], two[:, 0], atol=1e-5, rtol=0)
    whole = lengths(6 * BUCKET)
    assert (encoder(x, whole)[:, 0] - encoder(other, whole)[:, 0]).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_queries_are_found(encoders, kind):
    encoder = encoders[kind, "last"]
    assert [m.weight.shape for m in encoder.query_modules] == [(encoder.width, encoder.width)] * 2
