"""A Whisper's folder as faster-whisper takes it: convert_whisper.py MODEL PLACE PRECISION."""

import sys

from ctranslate2.converters import TransformersConverter

if __name__ == "__main__":
    folder, place, precision = sys.argv[1:]
    TransformersConverter(folder, copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
        place, quantization=precision
    )
