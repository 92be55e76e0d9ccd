#!/bin/bash
# soundfile 0.14.0 with its libsndfile 1.2.2. An encoder that writes a FLAC to a pipe cannot go back to state how many samples
# there are, and leaves 0, which means unknown. soundfile opens such a file and fails at the read that reaches its end. Of a WAV whose size was
# left at 0 it reads nothing, without an error. FFmpeg (av 18.1.0) reads both to their end.
# Guessed otherwise: that a file which opens is read to its end, as its format allows.
# Seen (exit 0 while it is so):
#   soundfile 0.14.0: FLAC of unknown length: LibsndfileError; WAV of size 0: 0 samples
#   av 18.1.0: 48000 and 48000 samples
# Here it touches deployments/engines/audio/files.py, which decodes everything with FFmpeg.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 av==18.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import av
import numpy as np
import soundfile


def saved(kind: str) -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(48_000) / 20), 48_000, format=kind)
    return bytearray(file.getvalue())


def by_av(file: bytearray, kind: str) -> int:
    with av.open(io.BytesIO(bytes(file)), format=kind) as opened:
        return sum(frame.samples for frame in opened.decode(audio=0))


flac, wav = saved("FLAC"), saved("WAV")
flac[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
flac[22:26] = bytes(4)
wav[40:44] = bytes(4)
try:
    with soundfile.SoundFile(io.BytesIO(bytes(flac))) as opened:
        flac_said = f"{sum(len(block) for block in (opened.read(65_536) for _ in range(2)))} samples"
except soundfile.LibsndfileError as failure:
    flac_said = type(failure).__name__
wav_said = len(soundfile.read(io.BytesIO(bytes(wav)))[0])
print(f"soundfile {soundfile.__version__}: FLAC of unknown length: {flac_said}; WAV of size 0: {wav_said} samples")
both = by_av(flac, "flac"), by_av(wav, "wav")
print(f"av {av.__version__}: {both[0]} and {both[1]} samples")
raise SystemExit(not (flac_said == "LibsndfileError" and wav_said == 0 and both == (48_000, 48_000)))
PYTHON
