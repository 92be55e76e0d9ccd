#!/bin/bash
# Pillow 13.0.0. `Image.draft` decodes a JPEG at a part of its size and rounds that size up: half of 1546×1213 is 773×607, whose
# last row shows half a row of the picture. `resize` takes all of it for the picture, so pixels lie up to half a row away, which
# an edge turns into dozens of grey levels. The exact region is in what `draft` returns.
# Guessed otherwise: that drafting and resizing gives nearly what resizing gives, as for sizes that are divided evenly.
# Seen (exit 0 while it is so; the largest difference of a pixel after resizing to 256×200):
#   Pillow 13.0.0: 773×607 decoded; resized as a whole: 24; with the region: 4
# Here it touches deployments/engines/vision/decoding.py, which drafts only where both sides are divided evenly.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import random

import PIL
from PIL import Image, ImageChops

small = Image.frombytes("L", (280, 220), random.Random(0).randbytes(280 * 220))
picture = small.resize((1546, 1213), Image.Resampling.BICUBIC)
file = io.BytesIO()
picture.save(file, "JPEG", quality=95)


def opened():
    file.seek(0)
    return Image.open(file)


def furthest(image):
    return ImageChops.difference(image, whole).getextrema()[1]


whole = opened().resize((256, 200), Image.Resampling.BILINEAR)
draft = opened()
_, region = draft.draft(None, (773, 606))
draft.load()
plain = furthest(draft.resize((256, 200), Image.Resampling.BILINEAR))
exact = furthest(draft.resize((256, 200), Image.Resampling.BILINEAR, box=region))
print(f"Pillow {PIL.__version__}: {draft.width}×{draft.height} decoded; resized as a whole: {plain}; with the region: {exact}")
raise SystemExit(not (draft.size == (773, 607) and plain > 20 and exact < 5))
PYTHON
