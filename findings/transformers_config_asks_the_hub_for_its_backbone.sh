#!/bin/bash
# transformers 5.23.0. `AutoConfig.from_pretrained(folder, local_files_only=True)` asks the Hub where config.json has the
# name of a `backbone` and no `backbone_config`: the backbone's own config.json is fetched, whatever the caller said.
# Guessed otherwise: that reading a local folder's configuration with local_files_only never opens a connection.
# Seen (exit 0 while it is so; the Hub is a listener on loopback that says 404):
#   transformers 5.23.0: asked GET /api/models/a/backbone
# Here it touches deployments/families/object_detection/family.py, which refuses such a folder before it is read.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
mkdir "$folder/model"
echo '{"model_type": "detr", "backbone": "a/backbone", "use_timm_backbone": false}' > "$folder/model/config.json"
env HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder/model" <<'PYTHON'
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

asked = []


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        asked.append(f"{self.command} {self.path}")
        self.send_error(404)

    do_GET = do_HEAD

    def log_message(self, *arguments: object) -> None: ...


server = HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"

import transformers

try:
    transformers.AutoConfig.from_pretrained(sys.argv[1], local_files_only=True)
except Exception as failure:
    print(f"({type(failure).__name__})", file=sys.stderr)
server.shutdown()
asked = [line for line in asked if "a/backbone" in line]
if not asked:
    raise SystemExit(f"transformers {transformers.__version__} asked nobody")
print(f"transformers {transformers.__version__}: asked {asked[0]}")
PYTHON
