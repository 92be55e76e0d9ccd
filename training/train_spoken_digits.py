"""Trains the bundled recogniser of spoken digits, a small Conformer with CTC over letters, and writes its folder.

`--data` is the folder with `fsdd.zip`. A ninth of its training recordings is held out; what is reported while training
is how many of those are heard wrongly. Once they have chosen, `--all` trains on them too. The test recordings are read
once, when the folder has been written.
"""

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
)

from training.digits import (
    HEARD_HZ,
    RATE,
    WORDS,
    Recording,
    load_recordings,
    log_mels,
    masked,
    resampled,
    spoken,
)
from training.progress import save_checkpoint, update_average
from training.word_errors import word_errors

TOKENS = ["<pad>", "<unk>", "|", *sorted(set("".join(WORDS)))]
"""The blank is `<pad>`, the space `|`."""
HELD_OUT = range(5, 10)
"""Numbers of the recordings that choose, five of each digit and speaker; the archive's own test has 0 to 4."""

EPOCHS = 60
SINGLE_EPOCHS = 4
"""The first ones have words alone, whole: among several the model finds none at first."""
BATCH_SIZE = 16
PEAK_LEARNING_RATE = 1.5e-3
WARM_UP = 0.05
WEIGHT_DECAY = 0.05
AVERAGE_DECAY = 0.99
SINGLE_CHANCE = 0.85
LONGEST = 4
SEED = 0
CHECKPOINT = Path("training/checkpoints/spoken_digits.pt")


def build_extractor() -> SeamlessM4TFeatureExtractor:
    return SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=RATE, stride=2)


def heard_bands(extractor: SeamlessM4TFeatureExtractor) -> int:
    """How many mel bands end below what the recordings hold."""
    top = round(HEARD_HZ / (RATE / 2) * (len(extractor.mel_filters) - 1))
    return int((extractor.mel_filters[top:].sum(0) == 0).sum())


def build_model(heard: int) -> Wav2Vec2BertForCTC:
    """Its first layer has no weights for what lies above the `heard` bands."""
    torch.manual_seed(SEED)
    model = Wav2Vec2BertForCTC(
        Wav2Vec2BertConfig(
            vocab_size=len(TOKENS),
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=288,
            feature_projection_input_dim=160,
            conv_depthwise_kernel_size=11,
            left_max_position_embeddings=32,
            right_max_position_embeddings=16,
            hidden_dropout=0.05,
            activation_dropout=0.05,
            attention_dropout=0.05,
            feat_proj_dropout=0.05,
            conformer_conv_dropout=0.05,
            layerdrop=0.0,
            final_dropout=0.1,
            apply_spec_augment=False,
            ctc_loss_reduction="mean",
            ctc_zero_infinity=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    deafen(model, heard)
    return model


@torch.no_grad()
def deafen(model: Wav2Vec2BertForCTC, heard: int) -> None:
    """Two frames of 80 bands make one input of the model."""
    weight = model.wav2vec2_bert.feature_projection.projection.weight
    weight.view(len(weight), 2, -1)[:, :, heard:] = 0


def batch_of(mels: list[Tensor]) -> dict[str, Tensor]:
    """As the extractor would have it: two frames side by side, padded with zeros."""
    pairs = [of_one.reshape(len(of_one) // 2, -1) for of_one in mels]
    mask = [torch.ones(len(of_one), dtype=torch.long) for of_one in pairs]
    return {
        "input_features": pad_sequence(pairs, batch_first=True),
        "attention_mask": pad_sequence(mask, batch_first=True),
    }


def token_ids(text: str) -> Tensor:
    return torch.tensor([TOKENS.index(letter) for letter in text.replace(" ", "|")])


def text_of(ids: list[int]) -> str:
    """Repeats count once, then blanks are dropped."""
    return "".join(TOKENS[index] for index, _ in itertools.groupby(ids) if index).replace("|", " ").strip()


def batches(recordings: list[Recording], single: float, random: np.random.Generator) -> Iterator[list[list[Recording]]]:
    """Every recording once: with a chance of `single` alone, else with others, mostly of the same speaker."""
    order = [recordings[index] for index in random.permutation(len(recordings))]
    if random.random() < 0.7:
        order.sort(key=lambda recording: recording.speaker)
    spoken_together = []
    while order:
        count = 1 if random.random() < single else int(random.integers(2, LONGEST + 1))
        spoken_together.append(order[:count])
        order = order[count:]
    batch: list[list[Recording]] = []
    for index in random.permutation(len(spoken_together)):
        batch.append(spoken_together[index])
        if sum(map(len, batch)) >= BATCH_SIZE:
            yield batch
            batch = []


def learning_rate(progress: float) -> float:
    """A straight rise, then half a cosine down to nothing; `progress` goes from 0 to 1."""
    rise = min(1.0, (progress + 1e-3) / WARM_UP)
    return PEAK_LEARNING_RATE * rise * (1 + math.cos(math.pi * progress)) / 2


@torch.inference_mode()
def wrong(model: nn.Module, mels: list[Tensor], words: list[str]) -> int:
    """How many of these single words are not heard exactly."""
    count = 0
    for start in range(0, len(words), 50):
        inputs = batch_of(mels[start : start + 50])
        best = model(**inputs).logits.argmax(-1)
        for ids, mask, word in zip(best, inputs["attention_mask"], words[start : start + 50], strict=True):
            count += text_of(ids[: int(mask.sum())].tolist()) != word
    return count


def train(recordings: list[Recording], epochs: int, checkpoint: Path, on_all: bool) -> Wav2Vec2BertForCTC:
    """The running mean of the weights after `epochs`; goes on from `checkpoint` if there is one."""
    extractor = build_extractor()
    heard = heard_bands(extractor)
    model = build_model(heard)
    average = copy.deepcopy(model)
    average.eval()
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [weight for weight in model.parameters() if weight.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    first_epoch, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch, seconds = saved["epoch"], saved["seconds"]

    held_out = [recording for recording in recordings if recording.number in HELD_OUT]
    if not on_all:
        recordings = [recording for recording in recordings if recording.number not in HELD_OUT]
    held_out_mels = [log_mels(resampled(recording), extractor) for recording in held_out]
    held_out_words = [recording.word for recording in held_out]
    bar = tqdm(total=epochs * len(recordings), initial=first_epoch * len(recordings), mininterval=5)
    for epoch in range(first_epoch, epochs):
        started = time.monotonic()
        # Seeded anew each time, so that a resumed run sees what an uninterrupted one would have seen.
        random = np.random.default_rng((SEED, epoch))
        torch.manual_seed(SEED + epoch)
        total_loss, done = 0.0, 0
        model.train()
        for batch in batches(recordings, 1.0 if epoch < SINGLE_EPOCHS else SINGLE_CHANCE, random):
            progress = (epoch + done / len(recordings)) / epochs
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress)
            mels = [log_mels(spoken(group, random), extractor) for group in batch]
            # Words alone stay whole: these short ones have nothing to spare.
            mels = [masked(m, heard, random) if len(g) > 1 else m for m, g in zip(mels, batch, strict=True)]
            texts = [token_ids(" ".join(recording.word for recording in group)) for group in batch]
            inputs = batch_of(mels)
            logits = model(**inputs).logits
            loss = nn.functional.ctc_loss(
                logits.log_softmax(-1).transpose(0, 1),
                torch.cat(texts),
                inputs["attention_mask"].sum(1),
                torch.tensor([len(text) for text in texts]),
                reduction="sum",
                zero_infinity=True,
            ) / sum(map(len, texts))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            deafen(model, heard)
            update_average(average, model, AVERAGE_DECAY)
            count = sum(map(len, batch))
            total_loss += loss.item() * count
            done += count
            bar.update(count)
        seconds += time.monotonic() - started
        errors = wrong(average, held_out_mels, held_out_words)
        tqdm.write(f"epoch {epoch + 1}: loss {total_loss / done:.4f}, {errors} of {len(held_out)} held out wrong")
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch + 1,
                "seconds": seconds,
            },
        )
    bar.close()
    print(f"{epochs} epochs in {seconds / 60:.1f} minutes")
    return average


def save_folder(model: Wav2Vec2BertForCTC, out: Path) -> None:
    model.save_pretrained(out)
    letters = out / "vocab.json"
    letters.write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}, ensure_ascii=False) + "\n")
    # The text that is asked for is the letters heard: no token begins or ends it.
    tokenizer = Wav2Vec2CTCTokenizer(str(letters), bos_token=None, eos_token=None, unk_token="<unk>", pad_token="<pad>")
    Wav2Vec2BertProcessor(build_extractor(), tokenizer).save_pretrained(out)


@torch.inference_mode()
def evaluate(folder: Path, archive: Path) -> None:
    """Prints the word error rate of the saved folder on the archive's test recordings, and what it hears wrongly."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForCTC.from_pretrained(folder).eval()
    texts, words = [], []
    for recording in tqdm(load_recordings(archive, "test"), desc="test"):
        inputs = processor(resampled(recording), sampling_rate=RATE, return_tensors="pt")
        [text] = processor.batch_decode(model(**inputs).logits.argmax(-1))
        texts.append(text)
        words.append(recording.word)
        if text != recording.word:
            tqdm.write(f"{recording.digit}_{recording.speaker}_{recording.number}: {text!r} for {recording.word!r}")
    errors = sum(map(word_errors, texts, words))
    print(f"word error rate {errors / len(words):.4f} ({errors} of {len(words)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the archive")
    parser.add_argument("--out", type=Path, default=Path("models/spoken_digits"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--all", action="store_true", help="train on what was held out too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate-only", action="store_true", help="measure the folder that is there")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    archive = options.data / "fsdd.zip"
    if not options.evaluate_only:
        recordings = load_recordings(archive, "train")
        save_folder(train(recordings, options.epochs, options.checkpoint, options.all), options.out)
    evaluate(options.out, archive)


if __name__ == "__main__":
    main()
