"""Trains the bundled detector of blood cells, a small RT-DETR v2, from nothing and writes its Hugging Face folder.

`--data` is the folder with `bccd.zip`. What is reported while training is the mean average precision on its `val`
pictures, which are never trained on. Its `test` pictures are read once, when the folder has been written.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

from training.average_precision import Answer, described, mean_average_precision
from training.cells import HEIGHT, MEAN, NAMES, STD, WIDTH, Batch, Labelled, as_cells, augment, load_labelled
from training.detection_loss import Objects, dense_loss, matched, paired_loss
from training.progress import save_checkpoint, update_average

EPOCHS = 120
BATCH_SIZE = 4
PEAK_LEARNING_RATE = 8e-4
WARM_UP_STEPS = 150
FALL = 0.4
"""The share of all steps, at the end, over which the learning rate falls."""
WEIGHT_DECAY = 0.02
AVERAGE_DECAY = 0.998
SEED = 0
CHECKPOINT = Path("training/checkpoints/blood_cells.pt")


def build_model() -> RTDetrV2ForObjectDetection:
    torch.manual_seed(SEED)
    width = 80
    model = RTDetrV2ForObjectDetection(
        RTDetrV2Config(
            backbone_config=RTDetrResNetConfig(
                embedding_size=24,
                hidden_sizes=[24, 48, 96, 128],
                depths=[2, 2, 2, 2],
                layer_type="basic",
                out_indices=[2, 3, 4],  # type: ignore[call-arg]  # it takes what it does not declare
            ),
            freeze_backbone_batch_norms=False,
            encoder_hidden_dim=width,
            encoder_in_channels=[48, 96, 128],
            encoder_ffn_dim=192,
            encoder_attention_heads=4,
            hidden_expansion=0.5,
            d_model=width,
            decoder_in_channels=[width] * 3,
            decoder_ffn_dim=192,
            decoder_layers=2,
            decoder_attention_heads=4,
            num_queries=100,
            num_denoising=0,
            id2label=dict(enumerate(NAMES)),
            label2id={name: index for index, name in enumerate(NAMES)},
        )
    )
    model.apply(start)
    for head in (model.model.enc_bbox_head, *model.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
    for layer in model.model.decoder.layers:
        nn.init.zeros_(layer.encoder_attn.sampling_offsets.weight)
        nn.init.zeros_(layer.encoder_attn.attention_weights.weight)
    return model


@torch.no_grad()
def start(module: nn.Module) -> None:
    """transformers starts at weights near nothing, from which it means to load others."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Weight decay on matrices, none on biases and normalisation."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    )


def learning_rate(step: int, steps: int) -> float:
    """A straight rise, level, then half a cosine down to nothing."""
    rise = min(1.0, (step + 1) / WARM_UP_STEPS)
    fall = max(0.0, (step / steps - 1 + FALL) / FALL)
    return PEAK_LEARNING_RATE * rise * (1 + math.cos(math.pi * fall)) / 2


def loss_of(model: RTDetrV2ForObjectDetection, batch: Batch) -> Tensor:
    """Of one batch: the places of the feature maps, and each decoder layer's queries."""
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.model(batch.images)
    height, width = batch.images.shape[2:]
    shapes = tuple((height // stride, width // stride) for stride in model.config.feat_strides)
    places = model.model.generate_anchors(shapes)[0].sigmoid()[0, :, :2]
    dense_logits, dense_boxes = outputs.enc_outputs_class.float(), outputs.enc_outputs_coord_logits.float().sigmoid()
    logits, boxes = outputs.intermediate_logits.float(), outputs.intermediate_reference_points.float()
    total = torch.zeros(())
    for index, (classes, true_boxes) in enumerate(zip(batch.classes, batch.boxes, strict=True)):
        objects = Objects(classes, true_boxes)
        total = total + dense_loss(dense_logits[index], dense_boxes[index], places, objects)
        for layer in range(logits.shape[1]):
            of_layer = logits[index, layer], boxes[index, layer]
            queries, wanted = matched(of_layer[0].detach(), of_layer[1].detach(), objects)
            total = total + paired_loss(*of_layer, objects, queries, wanted)
    return total / max(1, sum(map(len, batch.classes)))


@torch.inference_mode()
def precision(model: nn.Module, processor: Any, labelled: Iterable[Labelled]) -> str:
    """Mean average precision on whole pictures, in all and by label."""
    answers = []
    for picture in labelled:
        outputs = model(**processor(images=picture.image, return_tensors="pt"))
        sizes = [picture.image.size[::-1]]
        [found] = processor.post_process_object_detection(outputs, threshold=0.01, target_sizes=sizes)
        answers.append(
            Answer(
                [NAMES[index] for index in found["labels"].tolist()],
                found["scores"].tolist(),
                found["boxes"].numpy(),
                [NAMES[index] for index in picture.classes.tolist()],
                picture.boxes.numpy(),
            )
        )
    mean, each = mean_average_precision(NAMES, answers)
    return described(mean, each)


def train(
    labelled: Sequence[Labelled], held_out: Sequence[Labelled], epochs: int, checkpoint: Path
) -> RTDetrV2ForObjectDetection:
    """The running mean of the weights after `epochs`; goes on from `checkpoint` if there is one."""
    model = build_model()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # typed by transformers as if unbound
    average = copy.deepcopy(model)
    average.eval()
    optimizer = build_optimizer(model)
    first_epoch, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch, seconds = saved["epoch"], saved["seconds"]

    cells = as_cells(labelled)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_processor(checkpoint.parent)
    processor = AutoImageProcessor.from_pretrained(checkpoint.parent)
    steps = len(labelled) // BATCH_SIZE
    bar = tqdm(total=epochs * steps, initial=first_epoch * steps, mininterval=5)
    for epoch in range(first_epoch, epochs):
        started = time.monotonic()
        # Seeded anew each time, so that a resumed run sees what an uninterrupted one would have seen.
        random = torch.Generator().manual_seed(SEED + epoch)
        torch.manual_seed(SEED + epoch)
        order = torch.randperm(len(labelled), generator=random)
        total_loss = 0.0
        model.train()
        for step in range(steps):
            done = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done, epochs * steps)
            chosen = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE].tolist()
            loss = loss_of(model, augment(cells, chosen, random))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            # A young average forgets sooner, or it would remember the random start.
            update_average(average, model, min(AVERAGE_DECAY, (done + 1) / (done + 10)))
            total_loss += loss.item()
            bar.update()
        seconds += time.monotonic() - started
        line = f"epoch {epoch + 1}: loss {total_loss / steps:.4f}"
        if epoch % 10 == 9 or epoch + 1 == epochs:
            line += ", held out " + precision(average, processor, held_out)
        tqdm.write(line)
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


def save_folder(model: RTDetrV2ForObjectDetection, out: Path) -> None:
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-arg]  # typed by transformers as if unbound
    model.save_pretrained(out)
    write_processor(out)


def write_processor(folder: Path) -> None:
    # Written out, not saved from a processor object: that would name its class, which may need torchvision.
    processor = {
        "image_processor_type": "RTDetrImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": HEIGHT, "width": WIDTH},
        "resample": int(Image.Resampling.BILINEAR),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_pad": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def evaluate(folder: Path, archive: Path) -> None:
    """Prints the mean average precision of the saved folder on the archive's test pictures."""
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    labelled = list(load_labelled(archive, "test").values())
    print("test", precision(model, AutoImageProcessor.from_pretrained(folder), tqdm(labelled, desc="test")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the archive")
    parser.add_argument("--out", type=Path, default=Path("models/blood_cells"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate-only", action="store_true", help="measure the folder that is there")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    archive = options.data / "bccd.zip"
    if not options.evaluate_only:
        labelled, held_out = (list(load_labelled(archive, part).values()) for part in ("train", "val"))
        save_folder(train(labelled, held_out, options.epochs, options.checkpoint), options.out)
    evaluate(options.out, archive)


if __name__ == "__main__":
    main()
