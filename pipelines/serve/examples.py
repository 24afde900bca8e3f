"""What the OpenAPI document shows."""

WINDOW = {"start_s": 0.0, "end_s": 6.4, "mos": 2.31, "noi": 1.93, "col": 3.52, "dis": 3.87, "loud": 3.41}
ROW = {
    "recording_id": -4611686018427387904,
    "uri": "call.wav",
    "channel": 0,
    "reference_uri": None,
    "status": "ok",
    "error_code": None,
    "error_detail": None,
    "duration_s": 6.4,
    "speech_s": 4.98,
    "mos": 2.31,
    "mos_std": 0.68,
    "noi": 1.93,
    "noi_std": 0.61,
    "col": 3.52,
    "col_std": 0.74,
    "dis": 3.87,
    "dis_std": 0.7,
    "loud": 3.41,
    "loud_std": 0.72,
    "mos_se": 0.0,
    "worst_start_s": 0.0,
    "worst_mos": 2.31,
    "windows": [WINDOW],
    "evidence": {
        **{"level_db": -26.1, "activity": 0.78, "snr_db": 7.4, "band_low_hz": 62.5, "band_high_hz": 7906.2},
        **{"clipped_pct": 0.0, "dropouts": [], "dropout_pct": 0.0},
    },
    "alignment": None,
    "explanation": None,
    "profile": None,
    "model": "3f2a9c41d0b7",
    "scored_at": "2026-11-24T02:00:00+00:00",
    "facts": ["Background sound is almost as loud as the voice: 7 dB below it."],
}


def _json(description: str, example: dict, media_type: str = "application/json") -> dict:
    return {"description": description, "content": {media_type: {"example": example}}}


SCORE = _json("A row for each channel", {"rows": [ROW]})
MODELS = _json(
    "What answers here",
    {
        "models": [{"name": "embedded", "fingerprint": "3f2a9c41d0b7", "device": "cpu"}],
        "profiles": [{"name": "expert", "words": "Listener: expert, hears every flaw, strict. "}],
        "limits": {"max_mb": 100, "max_audio_s": 1800, "max_channels": 8, "timeout_s": 120},
        "samples": [{"name": "faulty/welcome-en-loss.flac", "url": "/samples/faulty/welcome-en-loss.flac"}],
    },
)
ASK = {
    "description": "Words, as server-sent events",
    "content": {
        "text/event-stream": {"example": 'data: {"text": "Strong background noise"}\n\nevent: done\ndata: {}\n\n'}
    },
}
PROBLEM = _json(
    "A problem document (RFC 9457); of a recording with the codes of `sqllm score`",
    {
        "type": "urn:sqllm:problem:decode",
        "title": "The recording cannot be decoded",
        "status": 422,
        "code": "DECODE",
        "detail": "not audio, or a broken header: Format not recognised.",
    },
    "application/problem+json",
)
