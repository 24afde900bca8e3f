"""Bytes to samples: any format, rate, number of channels and length, in memory that does not grow with the length.

libsndfile (soundfile) decodes WAV and its telephone codecs, FLAC, Ogg and MP3; FFmpeg (PyAV, the extra `av`) the rest:
AAC, AMR, G.729, WMA, WebM. Blocks of one second go through a streaming resampler (soxr) to `RATE`. The level is left
as it is, and whatever does not decode to its end is an error, never a shorter recording.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from sqllm import storage
from sqllm.audio import RATE, packed
from sqllm.errors import AudioError, UsageError

try:
    import av
except ImportError:
    av = None

BLOCK_S = 1.0
HEAD = 4096  # bytes read to recognise a file

# Containers that soundfile does not decode, by the bytes they begin with (offset, magic).
CONTAINERS = {
    "MP4/M4A": (4, b"ftyp"),
    "AMR": (0, b"#!AMR"),
    "WMA/ASF": (0, b"\x30\x26\xb2\x75"),
    "WebM/Matroska": (0, b"\x1a\x45\xdf\xa3"),
    "SILK": (0, b"#!SILK"),
    "Speex": (28, b"Speex"),
    "FLV": (0, b"FLV\x01"),
    "WavPack": (0, b"wvpk"),
    "Monkey's Audio": (0, b"MAC "),
    "RealMedia": (0, b".RMF"),
}
# FFmpeg goes by content, and knows lists of other files and descriptions of network streams: none of those are opened.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,amr,amrnb,amrwb,aac,ogg,flv,wav,wv,ape,rm,g729"
WAV_CODECS = {0x160: "WMA", 0x161: "WMA", 0xFF: "AAC", 0x1610: "AAC", 0x83: "G.729", 0x133: "G.729", 0x42: "G.723.1",
              0x111: "G.723.1", 0x45: "G.726", 0x64: "G.726", 0x28F: "G.722", 0x57: "AMR", 0xA109: "Speex"}  # fmt: skip


@dataclass
class Sound:
    """An opened recording. `blocks` may be read once: float32 [n, channels] at `RATE`, full scale is 1.0.

    Reading raises `AudioError` (DECODE, NONFINITE) where decoding stops.
    """

    uri: str
    rate: int  # Hz, of the file
    channels: int
    blocks: Iterator[np.ndarray]


def open_bytes(uri: str) -> Stream:
    """A seekable stream of the file's bytes, wherever `sqllm.storage` finds it."""
    try:
        inside = packed.split(uri)
        return Stream(io.BytesIO(packed.read(*inside)) if inside else storage.open_file(uri))
    except UsageError as error:
        raise AudioError("UNSUPPORTED", str(error)) from None
    except FileNotFoundError:
        raise AudioError("NOT_FOUND", f"no such file: {uri}") from None
    except OSError as error:
        raise AudioError("NOT_FOUND", f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the name
        raise AudioError("NOT_FOUND", f"cannot be read: {error}") from None


class Stream(io.RawIOBase):
    """Bytes that may stop coming. An exception is lost in the callbacks of a C decoder, where it looks like the end of
    the file: it is kept in `problem`."""

    def __init__(self, file: BinaryIO):
        self.file, self.problem = file, None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            data = self.file.read(len(buffer))
        except Exception as error:  # whatever a store's client throws
            self.problem = error
            return 0
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
        super().close()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Raises NOT_FOUND, in the place of what a decoder made of it, where bytes stopped coming."""
        try:
            yield
        except AudioError:
            if not self.problem:
                raise
        if self.problem:
            raise AudioError("NOT_FOUND", f"reading stopped: {type(self.problem).__name__}: {self.problem}")


@contextmanager
def open_sound(uri: str) -> Iterator[Sound]:
    """Open a recording for reading.

    Raises `AudioError`: NOT_FOUND, EMPTY (no bytes), UNSUPPORTED (a known container that nothing here decodes), DECODE
    (not audio, or broken). A file that opens and holds no samples gives no blocks.
    """
    with open_bytes(uri) as file:
        with file.whole():
            rate, channels, blocks = _opened(file, uri)
        try:
            yield Sound(uri, rate, channels, _resampled(_finite(_whole(blocks, file), rate), rate, channels))
        finally:
            blocks.close()


def _opened(file: Stream, uri: str) -> tuple[int, int, Iterator[np.ndarray]]:
    head = file.read(HEAD)
    if not head:
        raise AudioError("EMPTY", "the file has no bytes")
    file.seek(0)
    container = _foreign(head, uri)
    if container is None:
        return _soundfile(_mended(file, head), head)
    if av is None:
        raise AudioError("UNSUPPORTED", f"{container} needs PyAV: pip install 'sqllm[av]'")
    return _pyav(file, uri, container)


def load(uri: str, limit_s: float) -> np.ndarray:
    """A whole recording as int16 [channels, n] at `RATE`; ValueError when it is longer than `limit_s` seconds."""
    with open_sound(uri) as sound:
        parts, frames = [], 0
        for block in sound.blocks:
            parts.append(to_int16(block))
            frames += len(block)
            if frames > limit_s * RATE:
                raise ValueError(f"longer than {limit_s / 60:g} minutes")
        whole = np.empty((sound.channels, frames), np.int16)
        at = 0
        for part in parts:
            whole[:, at : at + len(part)] = part.T
            at += len(part)
        return whole


def to_int16(samples: np.ndarray) -> np.ndarray:
    """float32 of full scale 1.0 as int16; 16-bit samples are kept as they are, beyond full scale saturates."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _foreign(head: bytes, uri: str) -> str | None:
    """The name of a container or codec that soundfile does not decode, or None."""
    for name, (offset, magic) in CONTAINERS.items():
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[0] == 0xFF and head[1:2] and head[1] & 0xF6 == 0xF0:  # layer bits 00: ADTS, not MPEG audio
        return "AAC"
    if head[:4] == b"RIFF" and (at := head.find(b"fmt ")) > 0:
        return WAV_CODECS.get(int.from_bytes(head[at + 8 : at + 10], "little"))
    if os.path.splitext(uri)[1].lower() in (".g729", ".g729a"):  # bare frames, no magic
        return "G.729"
    return None


# ---- soundfile


class _Forward(soundfile.SoundFile):
    """Read from front to back only: soundfile seeks after every read, which fails on a FLAC of unstated length."""

    def seekable(self) -> bool:
        return False


class _Mended(Stream):
    """A WAV file whose sizes were never written (a recorder that died), with 'to the end' in their place."""

    def __init__(self, file: Stream, sizes_at: tuple[int, ...]):
        super().__init__(file)
        self.sizes_at = sizes_at

    def readinto(self, buffer) -> int:
        start = self.tell()
        count = super().readinto(buffer)
        for size_at in self.sizes_at:
            for at in range(max(size_at, start), min(size_at + 4, start + count)):
                buffer[at - start : at - start + 1] = b"\xff"
        return count


def _wav_data(head: bytes) -> tuple[int, int] | None:
    """Where the samples of a WAV file begin and how many bytes of them its header promises."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(head):
        size = int.from_bytes(head[at + 4 : at + 8], "little")
        if head[at : at + 4] == b"data":
            return at + 8, size
        at += 8 + size + size % 2
    return None


def _mended(file: Stream, head: bytes) -> Stream:
    data = _wav_data(head)
    return _Mended(file, (4, data[0] - 4)) if data and data[1] == 0 else file


def _soundfile(file: BinaryIO, head: bytes) -> tuple[int, int, Iterator[np.ndarray]]:
    try:
        sound = _Forward(file)
    except soundfile.LibsndfileError as error:
        raise AudioError("DECODE", f"not audio, or a broken header: {error.error_string}") from None
    rate = sound.samplerate
    promised = _promised(file, sound, head)

    def blocks() -> Iterator[np.ndarray]:
        done = 0
        with sound:
            while True:
                try:
                    block = sound.read(int(BLOCK_S * rate), dtype="float32", always_2d=True)
                except soundfile.LibsndfileError as error:
                    raise AudioError("DECODE", f"{_reached(done, promised, rate)}: {error.error_string}") from None
                if not len(block):
                    break
                done += len(block)
                yield block
        if promised and done < promised:
            raise AudioError("DECODE", f"{_reached(done, promised, rate)}: the file is truncated")

    return rate, sound.channels, blocks()


def _promised(file: BinaryIO, sound: soundfile.SoundFile, head: bytes) -> int | None:
    """Frames that the header promises; None where it does not know (a stream) or only estimates (Ogg, most MP3)."""
    frames = sound.frames
    if frames >= 1 << 62 or sound.format == "OGG":
        return None
    if sound.format == "MP3":  # an encoder's own count, less what its padding may add
        return int(0.99 * frames) if b"Xing" in head or b"Info" in head else None
    data = _wav_data(head)
    if data:
        here = file.tell()
        held = file.seek(0, os.SEEK_END) - data[0]
        file.seek(here)
        # libsndfile silently takes what is there; sizes near 2 or 4 GiB mean "a stream", not a promise
        if 0 < held < data[1] < 0x7FFF0000:
            return max(frames + 1, round(frames * data[1] / held))
    return frames


def _reached(done: int, promised: int | None, rate: int) -> str:
    of = f" of {promised / rate:.2f}" if promised else ""
    return f"decoding stopped after {done / rate:.2f}{of} s"


# ---- PyAV


def _pyav(file: BinaryIO, uri: str, container: str) -> tuple[int, int, Iterator[np.ndarray]]:
    try:
        bare = container == "G.729" and _bare(uri)
        source = av.open(file, format="g729" if bare else None, options={"format_whitelist": FORMATS})
        stream = source.streams.audio[0]
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    except (av.FFmpegError, IndexError) as error:
        raise AudioError("DECODE", f"{container} that does not open: {error}") from None
    promised_s = float(stream.duration * stream.time_base) if stream.duration else None

    def blocks() -> Iterator[np.ndarray]:
        to_float = av.AudioResampler(format="flt", rate=rate)
        done, parts = 0, []
        try:
            for frame in source.decode(stream):
                for even in to_float.resample(frame):
                    part = even.to_ndarray().reshape(-1, channels)
                    done += len(part)
                    parts.append(part)
                if sum(map(len, parts)) >= BLOCK_S * rate:
                    yield np.concatenate(parts)
                    parts = []
        except (av.FFmpegError, ValueError) as error:
            raise AudioError("DECODE", f"decoding stopped after {done / rate:.2f} s: {error}") from None
        finally:
            source.close()
        if parts:
            yield np.concatenate(parts)
        if promised_s and done / rate < 0.98 * promised_s - 0.5:  # durations in these containers are not exact
            raise AudioError("DECODE", f"{_reached(done, int(promised_s * rate), rate)}: the file is truncated")

    return rate, channels, blocks()


def _bare(uri: str) -> bool:
    return os.path.splitext(uri)[1].lower().startswith(".g729")


# ---- both


def _whole(blocks: Iterator[np.ndarray], file: Stream) -> Iterator[np.ndarray]:
    with file.whole():
        yield from blocks


def _finite(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    done = 0
    for block in blocks:
        if not np.isfinite(block).all():
            first, channel = np.argwhere(~np.isfinite(block))[0]
            where = f"{(done + first) / rate:.3f} s, channel {channel}"
            raise AudioError("NONFINITE", f"a sample that is not a finite number at {where}")
        done += len(block)
        yield block


def _resampled(blocks: Iterator[np.ndarray], rate: int, channels: int) -> Iterator[np.ndarray]:
    if rate == RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, RATE, channels, dtype="float32")
    for block in blocks:
        if len(out := resampler.resample_chunk(block)):
            yield out
    if len(out := resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)):
        yield out
