"""Object detection on a Hugging Face folder. Knows tensors, labels and boxes, not HTTP or Ray."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForObjectDetection

from deployments.contract.errors import Internal, ModelLoadFailed, ServingError
from deployments.engines.batches import Fitted, in_batches
from deployments.engines.conversion import Conversion, convert_in_background, no_faster
from deployments.engines.detection.openvino_convert import CONVERTED, convert
from deployments.engines.errors import load_failure
from deployments.engines.loading import configuration
from deployments.engines.openvino_model import OpenVinoModel
from deployments.engines.probes import Facts, ProbeCache
from deployments.engines.vision.decoding import decoded
from deployments.engines.vision.forward import BATCH_SIZES, EAGER, best_batch_size, storage_bytes
from deployments.engines.vision.inputs import Item, arguments, batch_of
from deployments.engines.vision.loading import channels_of, check_dtype, labels_of, load_model
from deployments.engines.vision.preprocessing import (
    Preprocessing,
    load_preprocessing,
    load_processor,
    preprocessed,
    reference_images,
)
from deployments.system.artifact_cache import ArtifactCache

SAME = 1e-4
"""How far the scores and the boxes, as shares of the sides, of a converted detector may lie from PyTorch's."""
COMPARED = 100
"""Queries with the best scores. The last ones may be others: they are chosen by scores that differ by less."""
DETECTORS_BYTES = 1 << 33
"""Of the cache of converted detectors."""
_Outputs = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is ready for the forward."""

    item: Item
    width: int
    """Of the upright picture as it was sent, in pixels."""
    height: int
    threshold: float
    """What scores above it is found."""

    @property
    def shape(self) -> Any:
        return self.item.shape


class Found(NamedTuple):
    """The objects of one picture, best first."""

    labels: list[str]
    scores: np.ndarray
    """Float32 [objects]."""
    boxes: np.ndarray
    """Float32 [objects, 4]: x_min, y_min, x_max, y_max in the picture's pixels."""


class ObjectDetectionEngine:
    """One detector, ready to answer. The library's own processor makes objects of the model's outputs.

    `resident_bytes` is what the weights take. `batch_size` is the largest batch worth making on this device.
    `runtime_info` is how it runs, for the status page.
    """

    def __init__(
        self, model: Any, preprocessing: Preprocessing, processor: Any, labels: Mapping[int, str], cores: int
    ) -> None:
        self.labels = labels
        self.batch_size = 1
        self.settled = threading.Event()
        self.settled.set()
        self._converted: OpenVinoModel | None = None
        self._note = EAGER
        self._examples: tuple[torch.Tensor, ...] = ()
        self._model: Any = model.to(memory_format=torch.channels_last)
        self._preprocessing: Preprocessing | None = preprocessing
        self._processor = processor
        self._cores = cores
        self._fitted = Fitted()

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        dtype: str | None = None,
        cores: int | None = None,
        facts: Facts | None = None,
        cache: ArtifactCache | None = None,
    ) -> "ObjectDetectionEngine":
        """An engine that has answered already. Raises ModelLoadFailed with one line that names no path.

        `dtype`: a torch name such as "bfloat16"; None is the folder's own. `cores`: to compute on; by default as many
        as torch uses. `facts`: what earlier loads found by trying. `cache`: of detectors that are converted for
        OpenVINO in the background, and found by later loads; without one nothing is converted.
        """
        cores = cores or torch.get_num_threads()
        probes = ProbeCache(facts, device, dtype, cores)
        try:
            check_dtype(dtype)
            config: Any = configuration(folder)
            preprocessing = load_preprocessing(folder, channels_of(config), probes)
            model = load_model(AutoModelForObjectDetection, folder, config, device, dtype)
            engine = cls(model, preprocessing, load_processor(folder), labels_of(config), cores)
            # A folder whose parts do not fit together is found here, not by the first caller.
            images = list(reference_images(preprocessing.mode))
            items = [preprocessing(image) for image in images]
            example = Picture(items[0], *images[0].size, threshold=0.0)
            [found] = engine._found([example])
            if isinstance(found, ServingError):
                raise ModelLoadFailed(found.message)
            known = probes.recall("batch size")
            size = int(known or best_batch_size(lambda _: engine._outputs, example.item, BATCH_SIZES[device])[0])
            probes.remember("batch size", str(size), known)
            engine.batch_size = size
            if cache is not None and torch.device(device).type == "cpu" and model.dtype == torch.float32:
                engine._convert(items, folder, cache)
            return engine
        except Exception as failure:
            raise load_failure(failure, folder) from failure

    @property
    def resident_bytes(self) -> int:
        if self._converted is not None:
            return self._converted.resident_bytes
        return storage_bytes(self._model) if self._model is not None else 0

    @property
    def runtime_info(self) -> tuple[str, ...]:
        if self._preprocessing is None:
            return ()
        threads = f"{self._cores} thread{'s' if self._cores > 1 else ''}"
        note = self._note if self.settled.is_set() else f"{self._note}, being converted"
        return (self._preprocessing.note, f"forward: {note}", f"largest batch: {self.batch_size}, on {threads}")

    def preprocess(self, image_data: bytes, threshold: float) -> Picture:
        """Decoded in full: a smaller decode would move boxes. Raises InvalidImage. For any thread."""
        preprocessing = self._preprocessing
        if preprocessing is None:
            raise Internal("the model is closed")
        with decoded(image_data, preprocessing.mode, None, preprocessing.bytes_per_pixel) as image:
            return Picture(preprocessed(image, preprocessing), *image.size, threshold=threshold)

    def detect(self, pictures: Sequence[Picture]) -> list[Found | ServingError]:
        """One item a picture, in order: what was found, or the error of that picture alone.

        Only pictures of one shape share a forward: padding moves boxes.
        """
        return in_batches(pictures, self.batch_size, self._found, _fault, self._fitted)

    def close(self) -> None:
        """Drop every reference to the model, so that its memory comes back."""
        self._model = self._preprocessing = self._processor = self._converted = None

    def use(self, converted: OpenVinoModel | None, note: str) -> None:
        if self._model is None:  # closed meanwhile
            return
        self._examples = ()
        if converted is None:
            self._note = f"{EAGER} ({note})"
        else:
            self._converted, self._note, self.batch_size = converted, note, 1
            self._model = None

    def fault(self, converted: OpenVinoModel) -> str | None:
        """Compares a picture's outputs and those of noise."""
        noise = torch.rand(self._examples[0].shape, generator=torch.Generator().manual_seed(0))
        for item in (*self._examples, noise):
            if not _same(self._outputs([item]), self._outputs([item], converted)):
                return "converted it finds something else"
        one = self._examples[:1]
        return no_faster(partial(self._outputs, one), partial(self._outputs, one, converted))

    def _convert(self, items: Sequence[Item], folder: Path, cache: ArtifactCache) -> None:
        """Where the folder makes every picture the same size: a converted detector takes one."""
        tensors = tuple(item for item in items if isinstance(item, torch.Tensor))
        if len(tensors) < len(items) or len({item.shape for item in tensors}) > 1:
            self._note = f"{EAGER} (it takes pictures of many sizes)"
            return
        self._examples = tensors[:2]
        cores = self._cores  # not the engine, which may be closed meanwhile

        def read(place: Path) -> OpenVinoModel:
            return OpenVinoModel(place / CONVERTED, cores)

        convert_in_background(self, Conversion(cache, folder, convert, (tuple(tensors[0].shape),), read))

    def _found(self, pictures: Sequence[Picture]) -> list[Found | ServingError]:
        """For pictures of one shape. Raises whatever the model and the processor raise."""
        if self._processor is None:
            return [Internal("the model is closed")] * len(pictures)
        logits, boxes = self._outputs([picture.item for picture in pictures])
        return [self._objects(picture, *of_one) for picture, *of_one in zip(pictures, logits, boxes, strict=True)]

    @torch.inference_mode()
    def _outputs(self, items: Sequence[Item], by: OpenVinoModel | None = None) -> _Outputs:
        """Logits [batch, queries, classes] and boxes [batch, queries, 4], as shares of the sides. On `cores` cores."""
        model, converted = self._model, by or self._converted  # in the order in which `use` lets go of them
        threads = self._cores if converted is None else 1
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of the calling thread
        if converted is not None:
            found = [converted([batch_of([item])]) for item in items]
            logits, boxes = (torch.cat(of_all) for of_all in zip(*found, strict=True))
            return logits, boxes
        outputs = model(**arguments(batch_of(items), model))
        if getattr(outputs, "pred_boxes", None) is None:
            raise ModelLoadFailed("the model gives no boxes")
        return outputs.logits.float().cpu(), outputs.pred_boxes.float().cpu()

    def _objects(self, picture: Picture, logits: torch.Tensor, boxes: torch.Tensor) -> Found | ServingError:
        if not (logits.isfinite().all() and boxes.isfinite().all()):
            return Internal("the model gave numbers that are not finite")
        outputs = SimpleNamespace(logits=logits[None], pred_boxes=boxes[None])
        [found] = self._processor.post_process_object_detection(
            outputs, threshold=picture.threshold, target_sizes=[(picture.height, picture.width)]
        )
        scores, classes, corners = (found[name].numpy() for name in ("scores", "labels", "boxes"))
        order = np.argsort(-scores, kind="stable")  # DETR's are in the order of its queries
        within = np.clip(corners, 0, np.array([picture.width, picture.height] * 2, np.float32))
        labels = [self.labels.get(number, f"LABEL_{number}") for number in classes[order].tolist()]
        return Found(labels, scores[order], within[order])


def _same(ours: _Outputs, theirs: _Outputs) -> bool:
    """Whether each of our best queries is among theirs."""
    both = [torch.cat([logits[0].sigmoid(), boxes[0]], 1) for logits, boxes in (ours, theirs)]
    best = ours[0][0].amax(1).topk(min(COMPARED, len(both[0]))).indices
    nearest = torch.cdist(both[0][best], both[1], p=float("inf")).amin(1)
    return bool(both[1].isfinite().all() and (nearest <= SAME).all())


def _fault() -> ServingError:
    return Internal("the model failed on this image")
