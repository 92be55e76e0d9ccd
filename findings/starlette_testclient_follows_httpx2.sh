#!/bin/bash
# starlette 1.10.0 beside httpx 0.28.1. Once httpx2 is installed too, `starlette.testclient.TestClient` is built on it:
# responses are `httpx2.Response`, which is no `httpx.Response`. Nothing in the test changes; another package (openai 3
# brings httpx2) is enough.
# Guessed otherwise: that the type of a test client's response depends on what the test imports.
# Seen (exit 0 while it is so):
#   with httpx alone: httpx, an httpx.Response: True
#   with httpx2 beside it: httpx2, an httpx.Response: False
# Here it touches annotations of responses in tests/serve_app/http.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check starlette==1.10.0 httpx==0.28.1
cat > "$folder/ask.py" <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore")
import httpx
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

response = TestClient(PlainTextResponse("x")).get("/")
kind = type(response).__module__.partition(".")[0]
print(f"{sys.argv[1]}: {kind}, an httpx.Response: {isinstance(response, httpx.Response)}")
raise SystemExit(kind != sys.argv[2])
PYTHON
"$folder/venv/bin/python" "$folder/ask.py" "with httpx alone" httpx
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check httpx2==2.16.2
"$folder/venv/bin/python" "$folder/ask.py" "with httpx2 beside it" httpx2
