import builtins
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from sqllm.audio import RATE, io
from sqllm.errors import AudioError

FORMATS = [
    ("WAV", "PCM_U8", 8000, 1),
    ("WAV", "PCM_16", 44100, 2),
    ("WAV", "PCM_24", 96000, 1),
    ("WAV", "PCM_32", 192000, 1),
    ("WAV", "FLOAT", 48000, 6),
    ("WAV", "DOUBLE", 16000, 1),
    ("WAV", "ULAW", 8000, 1),
    ("WAV", "ALAW", 8000, 2),
    ("WAV", "GSM610", 8000, 1),
    ("WAV", "IMA_ADPCM", 16000, 1),
    ("WAV", "MS_ADPCM", 22050, 2),
    ("FLAC", "PCM_16", 32000, 2),
    ("FLAC", "PCM_24", 96000, 1),
    ("OGG", "VORBIS", 44100, 2),
    ("OGG", "OPUS", 48000, 1),
    ("MP3", "MPEG_LAYER_III", 44100, 2),
]


def tone(rate, channels, seconds=2.0, amplitude=0.25):
    t = np.arange(int(seconds * rate)) / rate
    return np.stack([amplitude * np.sin(2 * np.pi * (300 + 100 * c) * t) for c in range(channels)], axis=1)


def code(path, limit_s=60):
    with pytest.raises(AudioError) as caught:
        io.load(str(path), limit_s)
    return caught.value


@pytest.mark.parametrize(("container", "codec", "rate", "channels"), FORMATS)
def test_every_format_keeps_duration_level_and_channels(tmp_path, container, codec, rate, channels):
    path = tmp_path / "a"
    sf.write(path, tone(rate, channels), rate, format=container, subtype=codec)
    samples = io.load(str(path), 60)
    assert samples.shape[0] == channels
    assert abs(samples.shape[1] / RATE - 2) < 0.1
    for channel, values in enumerate(samples):
        middle = values[RATE // 2 : -RATE // 2] / 32768
        assert 20 * np.log10(np.std(middle) * np.sqrt(2) / 0.25) == pytest.approx(0, abs=0.7)
        strongest = np.argmax(np.abs(np.fft.rfft(middle))) * RATE / len(middle)
        assert strongest == pytest.approx(300 + 100 * channel, abs=2)


def test_16_bit_at_16_khz_is_kept_bit_by_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 50000).astype(np.int16)
    sf.write(tmp_path / "a.wav", samples, RATE)
    assert (io.load(str(tmp_path / "a.wav"), 60)[0] == samples).all()


def encode_av(path, codec, rate, container=None):
    av = pytest.importorskip("av", reason="no PyAV: pip install '.[av]'")
    with av.open(str(path), "w", format=container) as sink:
        stream = sink.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        samples = tone(rate, 1)[:, 0].astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            sink.mux(packet)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.m4a", "aac", 44100), ("a.aac", "aac", 16000), ("a.wma", "wmav2", 44100), ("a.webm", "libopus", 48000)],
)
def test_pyav_formats(tmp_path, name, codec, rate):
    encode_av(tmp_path / name, codec, rate)
    samples = io.load(str(tmp_path / name), 60)
    assert samples.shape[0] == 1
    assert samples.shape[1] / RATE == pytest.approx(2, abs=0.2)
    assert np.std(samples[0, RATE // 2 : RATE] / 32768) * np.sqrt(2) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(
    ("name", "data"), [("a.amr", b"#!AMR\n" + (b"\x3c" + bytes(31)) * 50), ("a.g729", bytes(10) * 100)]
)
def test_speech_codecs_decode(tmp_path, name, data):
    pytest.importorskip("av", reason="no PyAV: pip install '.[av]'")
    (tmp_path / name).write_bytes(data)
    assert io.load(str(tmp_path / name), 60).shape[1] / RATE == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("magic", [b"\0\0\0\x20ftypM4A ", b"#!AMR\n", b"\x1a\x45\xdf\xa3", b"\xff\xf1\x50\x80"])
def test_without_pyav_a_known_container_names_the_extra(tmp_path, monkeypatch, magic):
    monkeypatch.setattr(io, "av", None)
    (tmp_path / "a.bin").write_bytes(magic + bytes(100))
    error = code(tmp_path / "a.bin")
    assert error.code == "UNSUPPORTED"
    assert "pip install 'sqllm[av]'" in error.detail


def test_imports_without_pyav(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest, **more)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "__import__", refuse)
            importlib.reload(io)
            assert io.av is None
    finally:
        importlib.reload(io)


def test_bad_files(tmp_path):
    (tmp_path / "text.wav").write_text("These are words, not a recording.\n" * 50)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "broken.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(300))
    assert code(tmp_path / "text.wav").code == "DECODE"
    assert code(tmp_path / "empty.wav").code == "EMPTY"
    assert code(tmp_path / "none.wav").code == "NOT_FOUND"
    assert code(tmp_path).code == "NOT_FOUND"
    assert code(tmp_path / "broken.m4a").code in ("DECODE", "UNSUPPORTED")
    assert code("warp://bucket/a.wav").code == "UNSUPPORTED"


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_truncated_says_how_far_it_got(tmp_path, name):
    path = tmp_path / name
    sf.write(path, np.random.default_rng(0).normal(0, 0.1, 5 * RATE), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    error = code(path)
    assert error.code == "DECODE"
    reached, promised = (float(word) for word in error.detail.split() if word[0].isdigit())
    assert 1 <= reached <= 3.1
    assert promised == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_wav_left_by_a_recorder_is_read_to_its_end(tmp_path, size):
    path = tmp_path / "a.wav"
    sf.write(path, tone(RATE, 1), RATE)
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[4:8] = data[at + 4 : at + 8] = size
    path.write_bytes(data)
    assert io.load(str(path), 60).shape == (1, 2 * RATE)


def test_flac_of_unstated_length(tmp_path):
    path = tmp_path / "a.flac"
    sf.write(path, tone(RATE, 1), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert io.load(str(path), 60).shape == (1, 2 * RATE)


def test_non_finite_samples_name_the_first(tmp_path):
    samples = tone(8000, 2).astype(np.float32)
    samples[12000, 1] = np.nan
    sf.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    error = code(tmp_path / "a.wav")
    assert error.code == "NONFINITE"
    assert "1.500 s, channel 1" in error.detail


PEAK = """
import resource, sys
from sqllm import recording
for chunk in recording.cut(sys.argv[1]): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, chunk.row["status"], chunk.row["duration_s"])
"""


def peak_mb(path):
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, cwd=root)
    return float(done.stdout.split()[0])


def test_memory_does_not_grow_with_length(tmp_path):
    """20 against 2 minutes of stereo. The real thing, two hours against ten minutes (300 MB allowed):

    python - <<'EOF'
    from pathlib import Path
    from tests.sqllm.audio.test_io import peak_mb, write_call
    for minutes in (10, 120):
        print(minutes, peak_mb(write_call(Path(f"/tmp/{minutes}.wav"), minutes)))
    EOF
    """
    short, long = (peak_mb(write_call(tmp_path / f"{minutes}.wav", minutes)) for minutes in (2, 20))
    assert long - short < 100


def write_call(path, minutes):
    rng = np.random.default_rng(0)
    minute = rng.normal(0, 0.1, (60 * 8000, 2)) * (np.sin(np.arange(60 * 8000) / 1000)[:, None] > 0)
    with sf.SoundFile(path, "w", 8000, 2, "PCM_16") as file:
        for _ in range(minutes):
            file.write(minute)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\n#      Speex\nfile a.wav\n",
        "v=0\r\no=- 0 0 IN IP4 1270\r\ns=Speex\r\nc=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n",
    ],
)
def test_a_file_opens_no_other_file_and_no_network(tmp_path, monkeypatch, text):
    pytest.importorskip("av", reason="no PyAV: pip install '.[av]'")
    monkeypatch.chdir(tmp_path)
    sf.write("a.wav", np.zeros(RATE), RATE)
    (tmp_path / "x.spx").write_text(text)
    assert text[28:33] == "Speex"
    with pytest.raises(AudioError, match="does not open") as refused:
        io.load("x.spx", 60)
    assert refused.value.code == "DECODE"
