#!/bin/bash
# Pillow 13.0.0. A grey PNG of 16 bits is opened as I;16, and `convert("RGB")` cuts its samples off at 255 instead of scaling
# them: a picture becomes nearly all white. A PNG of 16 bits a colour is read by its high bytes. transformers' `load_image` reads
# pictures so, and classifies a white one.
# Guessed otherwise: that `convert` keeps a picture's look, or that both depths are treated alike.
# Seen (exit 0 while it is so):
#   Pillow 13.0.0: grey 0, 256, 32768, 65535 as RGB: 0, 255, 255, 255
# Here it touches deployments/engines/vision/decoding.py, which takes the high byte.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct

import PIL
from PIL import Image

samples = (0, 256, 32768, 65535)
file = io.BytesIO()
Image.frombytes("I;16", (4, 1), struct.pack("<4H", *samples)).save(file, "PNG")
opened = Image.open(file)
reds = list(opened.convert("RGB").getchannel("R").tobytes())
print(f"Pillow {PIL.__version__}: grey {', '.join(map(str, samples))} as RGB: {', '.join(map(str, reds))}")
raise SystemExit(not (opened.mode == "I;16" and reds == [0, 255, 255, 255]))
PYTHON
