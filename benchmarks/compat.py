"""`python -m benchmarks.compat [TYPE …] [--images] [--write FILE]`: every type of model, held to transformers.

Of each type of text model, or of image classifier, a small random model is made, saved as a folder and loaded here and
there. Each type has a process of its own, which ends with it.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

import benchmarks.text.compat
import benchmarks.vision.compat
from benchmarks.outcomes import in_a_process, table
from deployments.engines.text.openvino import artifacts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="all, by default")
    parser.add_argument("--images", action="store_true", help="image classifiers in place of text models")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    disable_progress_bar()
    set_verbosity_error()
    warnings.simplefilter("ignore")
    logging.disable()
    kinds = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if options.images else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    examine = benchmarks.vision.compat.examine if options.images else benchmarks.text.compat.examine
    torch.set_num_threads(1)  # Before any forward: a process with threads cannot be forked.
    artifacts.converter = benchmarks.text.compat.converted_here
    outcomes = {}
    for name in options.types or sorted(kinds):
        outcomes[name] = in_a_process(examine, name)
        print(f"{name}: {' · '.join(filter(None, asdict(outcomes[name]).values()))}", file=sys.stderr, flush=True)
    written = table(outcomes)
    print(written)
    if options.write:
        options.write.write_text(written)


if __name__ == "__main__":
    main()
