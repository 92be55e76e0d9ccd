"""`python -m benchmarks.http.serve_family echo|paced`: `model-runtime serve` with a family of the benchmarks alone."""

import argparse
from pathlib import Path

from benchmarks.http.echo import ECHO
from benchmarks.http.paced import PACED
from serve_app.config.config import RuntimeConfig, read_config
from serve_app.local import serve_until_interrupted

FAMILIES = {family.name: family for family in (ECHO, PACED)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--config", type=Path)
    given = parser.parse_args()
    config = read_config(given.config) if given.config else RuntimeConfig(models=given.models)
    serve_until_interrupted(config, given.port, families=[FAMILIES[given.family]])
