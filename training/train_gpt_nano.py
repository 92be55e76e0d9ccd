"""Trains the bundled text generator, a small Llama, on Shakespeare and writes its Hugging Face folder.

`--data` is the text file. Its last twentieth is never trained on, by the tokenizer or by the model; what is
reported is bits per byte over the whole of that part, measured on the saved folder.
"""

import argparse
import itertools
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from training.progress import save_checkpoint

Ids = NDArray[np.int64]

TRAINING_SHARE = 0.95
END = "<|endoftext|>"
END_ID = 0
VOCABULARY = 1024
CONTEXT = 512

BATCH_SIZE = 4
PEAK_LEARNING_RATE = 2.5e-3
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.1
DROPOUT = 0.1
SPLIT_CHANCE = 0.1
SPEECHES_PER_SCENE = 12
SEED = 0


def read_parts(path: Path) -> tuple[str, str]:
    """The text to train on and the text held out, cut at a byte."""
    content = path.read_bytes()
    cut = int(len(content) * TRAINING_SHARE)
    return content[:cut].decode(), content[cut:].decode()


def train_tokenizer(text: str) -> Tokenizer:
    """Byte-level BPE: any text is encoded without loss, since all 256 bytes are in the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    # Line ends stand alone, so that a prompt that stops at one is encoded as the text is.
    words = pre_tokenizers.Split(Regex(r" ?[\w']+| ?[^\w\s']+|\n+|\s"), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    assert tokenizer.token_to_id(END) == END_ID
    return tokenizer


def token_halves(tokenizer: Tokenizer) -> Ids:
    """For each token the two it was merged from, [vocabulary, 2], or -1 where it is a single byte."""
    halves = np.full((tokenizer.get_vocab_size(), 2), -1)
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        merged = tokenizer.token_to_id(left + right)
        halves[merged] = tokenizer.token_to_id(left), tokenizer.token_to_id(right)
    return halves


def split_some(ids: Ids, halves: Ids, chance: float, random: np.random.Generator) -> Ids:
    """Undoes some merges: the same text in other tokens at each reading, against learning it by heart.

    BPE dropout (Provilkov et al., 2020) run backwards; the one in `tokenizers` cannot be seeded.
    """
    chosen = (random.random(len(ids)) < chance) & (halves[ids, 0] >= 0)
    lengths = 1 + chosen
    starts = np.cumsum(lengths) - lengths
    pieces = np.repeat(ids, lengths)
    pieces[starts[chosen]] = halves[ids[chosen], 0]
    pieces[starts[chosen] + 1] = halves[ids[chosen], 1]
    return pieces


def scene_tokens(speeches: list[Ids], random: np.random.Generator) -> Ids:
    """One reading: cut after random speeches, each scene closed by the end token, in random order."""
    cuts = np.flatnonzero(random.random(len(speeches)) < 1 / SPEECHES_PER_SCENE) + 1
    bounds = [0, *cuts.tolist(), len(speeches)]
    scenes = [np.concatenate([*speeches[start:stop], np.array([END_ID])]) for start, stop in itertools.pairwise(bounds)]
    return np.concatenate([scenes[index] for index in random.permutation(len(scenes))])


def build_model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=160,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=END_ID,
            eos_token_id=END_ID,
            pad_token_id=END_ID,
        )
    )


def add_dropout(model: LlamaForCausalLM) -> None:
    """Dropout on the embedding and on what each block adds, which Llama's own configuration lacks."""

    def drop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return F.dropout(output, DROPOUT, module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Weight decay on matrices, none on normalisation."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.98),
    )


def learning_rate(step: int, steps: int) -> float:
    """A short straight rise, then half a cosine down to nothing."""
    rise = min(1.0, (step + 1) / WARM_UP_STEPS)
    return PEAK_LEARNING_RATE * rise * (1 + math.cos(math.pi * step / steps)) / 2


@torch.inference_mode()
def bits_per_byte(model: LlamaForCausalLM, ids: list[int], byte_count: int, stride: int) -> float:
    """Bits per byte of text for all of `ids`, each token scored once.

    A token sees at least CONTEXT - stride tokens before it, or all there are; the first sees the end token.
    """
    stream = torch.tensor([END_ID, *ids])
    nats = 0.0
    scored = 1
    while scored < len(stream):
        stop = min(scored + (CONTEXT - 1 if scored == 1 else stride), len(stream))
        window = stream[max(0, stop - CONTEXT) : stop]
        new = stop - scored
        logits = model(input_ids=window[None]).logits[0, -new - 1 : -1].float()
        nats += F.cross_entropy(logits, window[-new:], reduction="sum").item()
        scored = stop
    return nats / math.log(2) / byte_count


def train(tokenizer: Tokenizer, text: str, held_out: str, epochs: int, checkpoint: Path) -> LlamaForCausalLM:
    """The model after `epochs` readings of `text`; goes on from `checkpoint` if there is one."""
    model = build_model()
    add_dropout(model)
    optimizer = build_optimizer(model)
    first_epoch, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch, seconds = saved["epoch"], saved["seconds"]

    halves = token_halves(tokenizer)
    encodings = tokenizer.encode_batch(re.split(r"(?<=\n\n)", text))
    speeches = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
    held_out_ids = tokenizer.encode(held_out).ids
    steps = sum(map(len, speeches)) // (BATCH_SIZE * CONTEXT)
    bar = tqdm(total=epochs * steps, initial=first_epoch * steps, mininterval=5)
    for epoch in range(first_epoch, epochs):
        started = time.monotonic()
        # Seeded anew each time, so that a resumed run sees what an uninterrupted one would have seen.
        random = np.random.default_rng((SEED, epoch))
        torch.manual_seed(SEED + epoch)
        # Fewer splits towards the end: what is served and measured has none.
        chance = SPLIT_CHANCE * (1 - epoch / epochs)
        stream = split_some(scene_tokens(speeches, random), halves, chance, random)
        stream = stream[random.integers(CONTEXT) :]
        rows = stream[: len(stream) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
        random.shuffle(rows)
        total_loss = 0.0
        model.train()
        for step in range(steps):
            rate = learning_rate(epoch * steps + step, epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = torch.from_numpy(rows[step * BATCH_SIZE : (step + 1) * BATCH_SIZE])
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            total_loss += loss.item()
            bar.update()
        seconds += time.monotonic() - started
        bits = bits_per_byte(model.eval(), held_out_ids, len(held_out.encode()), stride=CONTEXT - 1)
        tqdm.write(f"epoch {epoch + 1}: loss {total_loss / steps:.4f}, held out {bits:.4f} bits per byte")
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch + 1,
                "seconds": seconds,
            },
        )
    bar.close()
    print(f"{epochs} epochs in {seconds / 60:.1f} minutes")
    return model


def save_folder(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    model.generation_config = GenerationConfig(bos_token_id=END_ID, eos_token_id=END_ID, pad_token_id=END_ID)
    model.save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
        padding_side="left",  # generate() continues from the last column.
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)


def evaluate(folder: Path, held_out: str) -> None:
    """Prints the saved folder's bits per byte on the held-out text, and what it writes."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(held_out, verbose=False)["input_ids"]  # Longer than the context, as it warns.
    assert tokenizer.decode(ids) == held_out
    bits = bits_per_byte(model, ids, len(held_out.encode()), stride=CONTEXT // 4)
    print(f"held out: {bits:.4f} bits per byte, {len(ids)} tokens, {len(held_out.encode())} bytes")
    torch.manual_seed(SEED)
    prompt = tokenizer("ROMEO:\n", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=200, do_sample=True, temperature=0.8)
    print(tokenizer.decode(written[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the text file")
    parser.add_argument("--out", type=Path, default=Path("models/gpt-nano"))
    parser.add_argument("--checkpoint", type=Path, default=Path("training/checkpoints/gpt-nano.pt"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate-only", action="store_true", help="measure the folder that is there")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    text, held_out = read_parts(options.data)
    if not options.evaluate_only:
        tokenizer = train_tokenizer(text)
        model = train(tokenizer, text, held_out, options.epochs, options.checkpoint)
        save_folder(model, tokenizer, options.out)
    evaluate(options.out, held_out)


if __name__ == "__main__":
    main()
