#!/bin/bash
# tokenizers 0.23.3. `DecodeStream` gives a character of byte tokens as soon as it is whole. If the next byte is none that
# continues the run, it raises at the next ordinary token and at every one after it, since the decoding of the whole no longer
# begins with what was given. `Tokenizer.decode` takes the same tokens.
# Guessed otherwise: that a stream gives, for any tokens, the parts of what `decode` gives.
# Seen (exit 0 while it is so):
#   tokenizers 0.23.3: decode gives '���� a a'
#   DecodeStream gives None, None, '猫', None, Exception, Exception
# Here it touches deployments/engines/text/spelling/streams.py, which does not use it.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁a": 256, "<unk>": 257}
tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
ids = [*"猫".encode(), 0xFF, 256, 256]
print(f"tokenizers {importlib.metadata.version('tokenizers')}: decode gives {tokenizer.decode(ids)!r}")
stream, given = DecodeStream(skip_special_tokens=True), []
for token in ids:
    try:
        given.append(repr(stream.step(tokenizer, token)))
    except Exception as error:
        given.append(type(error).__name__)
print("DecodeStream gives", ", ".join(given))
raise SystemExit(given != ["None", "None", "'猫'", "None", "Exception", "Exception"])
PYTHON
