"""Trains the bundled image classifier, a small RegNet, on CIFAR-10 and writes its Hugging Face folder.

`--data` is a folder with cifar10-train.zip and cifar10-test.zip, each holding `<class>/<number>.jpg`.
The accuracy it reports is that of the saved folder: files decoded with Pillow, the folder's own processor,
the folder's own weights. The test files are read for nothing else.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
)

from training.pictures import IMAGE_SIZE, MEAN, STD, Pictures, Variation, augment, load_pictures, normalized, read_jpegs
from training.progress import save_checkpoint, update_average

CHECKPOINT = Path("training/checkpoints/image_classifier_v1.pt")

BATCH_SIZE = 128
WARM_UP = 0.2
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
AVERAGE_DECAY = 0.998
SEED = 0


@dataclass(frozen=True)
class Cycle:
    """Epochs in which the learning rate rises to a peak and falls to nothing."""

    epochs: int
    peak_learning_rate: float
    variation: Variation
    hidden: float
    """The share of the epochs in which a square of each picture is hidden."""


# A strict first cycle, then gentler ones on pictures more like those that are served.
CYCLES = (
    Cycle(epochs=20, peak_learning_rate=0.2, variation=Variation(stretched=0.25, light=0.2), hidden=0.75),
    Cycle(epochs=14, peak_learning_rate=0.06, variation=Variation(stretched=0.125, light=0.1), hidden=0.0),
    Cycle(epochs=11, peak_learning_rate=0.08, variation=Variation(stretched=0.125, light=0.1), hidden=0.6),
)


def build_model(names: list[str]) -> RegNetForImageClassification:
    torch.manual_seed(SEED)
    return RegNetForImageClassification(
        RegNetConfig(
            embedding_size=64,
            hidden_sizes=[64, 128, 256],
            depths=[1, 2, 1],
            groups_width=256,  # As wide as the widest layer: no groups, which are slow on a CPU.
            layer_type="x",
            downsample_in_first_stage=False,  # The stem already halves the 32 pixels.
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
        )
    )


def build_optimizer(model: nn.Module) -> torch.optim.SGD:
    """Weight decay on convolutions and the classifier, none on biases and normalisation."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    return torch.optim.SGD(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=CYCLES[0].peak_learning_rate,
        momentum=0.9,
        nesterov=True,
    )


def learning_rate(cycle: Cycle, progress: float) -> float:
    """A straight rise to the peak, then a straight fall to nothing; `progress` goes from 0 to 1."""
    return cycle.peak_learning_rate * min((progress + 0.01) / WARM_UP, (1 - progress) / (1 - WARM_UP))


def cycle_of(epoch: int) -> tuple[Cycle, int]:
    """The cycle that an epoch belongs to, and its place in it."""
    for cycle in CYCLES:
        if epoch < cycle.epochs:
            return cycle, epoch
        epoch -= cycle.epochs
    raise ValueError("there are fewer epochs")


def train(pictures: Pictures, checkpoint: Path) -> RegNetForImageClassification:
    """The mean of the last two cycles' ends; goes on from `checkpoint` if there is one."""
    model = build_model(pictures.names)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # typed by transformers as if unbound
    average = copy.deepcopy(model).eval()
    optimizer = build_optimizer(model)
    first_epoch, seconds = 0, 0.0
    ends: list[dict[str, Tensor]] = []
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch, seconds, ends = saved["epoch"], saved["seconds"], saved["ends"]

    epochs = sum(cycle.epochs for cycle in CYCLES)
    steps = len(pictures.labels) // BATCH_SIZE
    bar = tqdm(total=epochs * steps, initial=first_epoch * steps, mininterval=5)
    model.train()
    for epoch in range(first_epoch, epochs):
        started = time.monotonic()
        # One generator an epoch, so that a resumed run sees what an uninterrupted one would have seen.
        random = torch.Generator().manual_seed(SEED + epoch)
        cycle, place = cycle_of(epoch)
        # Towards the end pictures are whole, as those that are served.
        hide = place < cycle.epochs * cycle.hidden
        order = torch.randperm(len(pictures.labels), generator=random)
        total_loss, correct = 0.0, 0
        for step in range(steps):
            rate = learning_rate(cycle, (place * steps + step) / (cycle.epochs * steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            images, labels = augment(pictures.pixels[chosen], random, cycle.variation, hide), pictures.labels[chosen]
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images).logits
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            # A young average forgets sooner, or it would remember the random start.
            done = epoch * steps + step + 1
            update_average(average, model, min(AVERAGE_DECAY, done / (done + 10)))
            total_loss += loss.item()
            correct += int((logits.argmax(1) == labels).sum())
            bar.update()
        if place + 1 == cycle.epochs:
            ends.append(copy.deepcopy(average.state_dict()))
        seconds += time.monotonic() - started
        accuracy = correct / (steps * BATCH_SIZE)
        tqdm.write(f"epoch {epoch + 1}: loss {total_loss / steps:.4f}, training accuracy {accuracy:.4f}")
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ends": ends,
                "epoch": epoch + 1,
                "seconds": seconds,
            },
        )
    bar.close()
    print(f"{epochs} epochs in {seconds / 60:.1f} minutes")
    last, before = ends[-1], ends[-2]
    mean = {name: value.lerp(before[name], 0.5) if value.is_floating_point() else value for name, value in last.items()}
    average.load_state_dict(mean)
    return measure_statistics(average, pictures)


@torch.no_grad()
def measure_statistics(model: RegNetForImageClassification, pictures: Pictures) -> RegNetForImageClassification:
    """Gives the batch norms the statistics of plain training pictures: a mean of weights has none of its own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # The mean over all batches.
    order = torch.randperm(len(pictures.labels), generator=torch.Generator().manual_seed(SEED))
    model.train()
    for chosen in order.split(500):
        model(normalized(pictures.pixels[chosen].float() / 255))
    model.eval()
    return model


def save_folder(model: RegNetForImageClassification, out: Path) -> None:
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-arg]  # typed by transformers as if unbound
    model.save_pretrained(out)
    # Written out, not saved from a processor object: that would name its class, which may need torchvision.
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


@torch.inference_mode()
def evaluate(folder: Path, archive: Path) -> None:
    """Prints the share of the archive's files that the saved folder labels right, in all and by class."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    files = list(read_jpegs(archive))
    right: dict[str, list[bool]] = {}
    for start in tqdm(range(0, len(files), 100), desc="test"):
        classes, images = zip(*files[start : start + 100], strict=True)
        logits = model(**processor(images=list(images), return_tensors="pt")).logits
        for name, index in zip(classes, logits.argmax(1).tolist(), strict=True):
            right.setdefault(name, []).append(model.config.id2label[index] == name)
    for name, answers in right.items():
        print(f"{name:12} {sum(answers) / len(answers):.4f}")
    correct = sum(sum(answers) for answers in right.values())
    print(f"{'top-1':12} {correct / len(files):.4f} ({correct} of {len(files)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two archives")
    parser.add_argument("--out", type=Path, default=Path("models/image_classifier_v1"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate-only", action="store_true", help="measure the folder that is there")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    if not options.evaluate_only:
        pictures = load_pictures(options.data / "cifar10-train.zip")
        save_folder(train(pictures, options.checkpoint), options.out)
    evaluate(options.out, options.data / "cifar10-test.zip")


if __name__ == "__main__":
    main()
