import pytest
import torch
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

from sqllm.model.features import ASTLogMel, WhisperLogMel


@pytest.mark.parametrize("mel", [80, 128])
def test_whisper_log_mel_is_that_of_transformers(speech, mel):
    x = torch.stack([speech(10.0, 0), speech(10.0, 1) * 0.01])
    ours = WhisperLogMel(mel)(x)
    theirs = WhisperFeatureExtractor(mel)(list(x.numpy()), sampling_rate=16000, return_tensors="pt").input_features
    assert ours.shape == (2, mel, 1000) and theirs.shape == (2, mel, 3000)
    # transformers pads to 30 s before it computes: the last two frames of a clip see zeros there, its mirror here
    torch.testing.assert_close(ours[..., :998], theirs[..., :998], atol=1e-3, rtol=0)


def test_level_stays_in_whisper_log_mel(speech):
    x = speech(2.0)[None]
    log_mel = WhisperLogMel(80)
    # 20 dB are 2 in log10 of the power, and the scale is a quarter of it
    torch.testing.assert_close(log_mel(x) - log_mel(x * 0.1), torch.full((1, 80, 200), 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("seconds", [1.0, 4.3, 10.0, 11.0])
def test_ast_log_mel_is_that_of_transformers(speech, seconds):
    x = torch.stack([speech(seconds, 0), speech(seconds, 1) * 0.01])
    ours = ASTLogMel(128, 1024)(x)
    theirs = ASTFeatureExtractor()(list(x.numpy()), sampling_rate=16000, return_tensors="pt").input_values
    assert ours.shape == (2, 1024, 128)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
