"""faster-whisper, or the `transformers` pipeline, behind LitServe. Greedy, no times, no other try, so many tokens."""

import argparse
import base64
import os
from io import BytesIO

import litserve as ls
import soundfile

WORDS, ALL = 50_257, 51_865  # Whisper's tokens: the words, and with those that steer


class Whisper(ls.LitAPI):
    def __init__(self, folder, tokens, threads, **options):
        super().__init__(**options)
        self.folder, self.tokens, self.threads = folder, tokens, threads

    def decode_request(self, request):
        samples, rate = soundfile.read(
            BytesIO(base64.b64decode(request["SpeechToText"]["audio_data"])), dtype="float32"
        )
        assert rate == 16_000
        return samples

    def encode_response(self, text):
        return {"SpeechToTextResult": {"text": text}}


class Pipeline(Whisper):
    def setup(self, device):
        import torch
        from transformers import pipeline

        torch.set_num_threads(self.threads)
        self.recognise = pipeline("automatic-speech-recognition", model=self.folder, device=device)

    def predict(self, samples):
        return self.recognise({"raw": samples, "sampling_rate": 16_000})["text"].strip()


class Fast(Whisper):
    def __init__(self, *given, precision, **options):
        super().__init__(*given, **options)
        self.precision = precision

    def setup(self, device):
        from faster_whisper import WhisperModel

        self.model = WhisperModel(
            self.folder, device="cpu", compute_type=self.precision, cpu_threads=self.threads, local_files_only=True
        )

    def predict(self, samples):
        segments, _ = self.model.transcribe(
            samples,
            language="en",
            beam_size=1,
            temperature=0.0,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            condition_on_previous_text=False,
            suppress_blank=False,
            suppress_tokens=list(range(WORDS, ALL)),
            without_timestamps=True,
            max_new_tokens=2 * self.tokens - 2,  # CTranslate2 halves it, with the two tokens of the prompt
        )
        return "".join(segment.text for segment in segments).strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--fast", metavar="PRECISION")
    options = parser.parse_args()
    given = options.model, options.tokens, max(1, len(os.sched_getaffinity(0)) // options.workers)
    api = Fast(*given, precision=options.fast) if options.fast else Pipeline(*given)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=options.workers)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
