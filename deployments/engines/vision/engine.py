"""Image classification on a Hugging Face folder. Knows tensors and labels, not HTTP or Ray."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageClassification

from deployments.contract.errors import Internal, InvalidImage, ModelLoadFailed, ServingError
from deployments.engines.batches import Fitted, in_batches
from deployments.engines.errors import load_failure
from deployments.engines.loading import configuration
from deployments.engines.probes import Facts, ProbeCache
from deployments.engines.vision.compilation import Compiler, compile_in_background
from deployments.engines.vision.decoding import decoded
from deployments.engines.vision.forward import Forward, eager
from deployments.engines.vision.inductor import InductorCompiler
from deployments.engines.vision.inputs import Item, batch_of
from deployments.engines.vision.loading import channels_of, check_dtype, labels_of, load_model
from deployments.engines.vision.openvino_cache import OpenVinoCompiler
from deployments.engines.vision.preprocessing import (
    FixedSizePreprocessing,
    Preprocessing,
    configured_size,
    load_preprocessing,
    preprocessed,
    reference_images,
)
from deployments.system.artifact_cache import ArtifactCache


class ImageClassificationEngine:
    """One image classification model, ready to answer.

    `labels` are `id2label` in index order, as they are. `resident_bytes` is what the weights take, in the form that the
    model has now. `batch_size` is the largest batch worth making on this device, `at_once` how many side by side.
    `runtime_info` is how it runs, for the status page.
    """

    def __init__(
        self,
        forward: Forward,
        preprocessing: Preprocessing,
        labels: list[str],
        draft: bool = False,
        one_shape: bool = True,
    ) -> None:
        self.labels = labels
        self._one_shape = one_shape
        self._forward: Forward | None = forward
        self._preprocessing: Preprocessing | None = preprocessing
        self._draft = draft
        self._fitted = Fitted()
        self.settled = forward.settled
        """Set while nothing is being compiled in the background."""

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        dtype: str | None = None,
        draft: bool = False,
        cores: int | None = None,
        cache: ArtifactCache | None = None,
        facts: Facts | None = None,
    ) -> "ImageClassificationEngine":
        """An engine that has answered already. Raises ModelLoadFailed with one line that names no path.

        `dtype`: a torch name such as "bfloat16"; None is the folder's own. `draft`: decode large JPEGs small, at the
        price of other probabilities. `cores`: to compute on; by default as many as torch uses. `cache`: of compiled
        models, made in the background and found by later loads; without one nothing is compiled. `facts`: what earlier
        loads found by trying.
        """
        cores = cores or torch.get_num_threads()
        probes = ProbeCache(facts)
        try:
            check_dtype(dtype)
            config: Any = configuration(folder)
            of_folder = AutoModelForImageClassification, folder, config, device, dtype
            any_size = load_preprocessing(folder, channels_of(config), probes)
            preprocessing: Preprocessing = any_size
            image = next(reference_images(preprocessing.mode))
            example: Any = preprocessing(image)
            shapes = probes.recall("shapes") or probes.remember("shapes", str(len(_shapes(preprocessing))))
            one_shape, model = shapes == "1", None
            if not one_shape:
                sizes = probes.recall("sizes")
                if sizes is None:
                    model = load_model(*of_folder)
                    sizes = probes.remember("sizes", "any" if _takes(model, example) else "one")
                if one_shape := sizes == "one":
                    preprocessing = FixedSizePreprocessing(any_size, configured_size(config))
                    example = preprocessing(image.resize(preprocessing.size))
            compiler: Compiler | None = None
            if cache is not None and one_shape and isinstance(example, torch.Tensor):
                on_cpu, shape = torch.device(device).type == "cpu", example.shape
                compiler = OpenVinoCompiler(cache, folder, shape, dtype, cores) if on_cpu else InductorCompiler()
            form = compiler.found() if compiler else None
            model = None if form else model or load_model(*of_folder)
            forward = Forward(form or eager(model), _is_multi_label(config), cores, model)
            # A folder whose parts do not fit together is found here, not by the first caller.
            labels, answered = list(labels_of(config).values()), forward([example]).shape
            if answered != (1, len(labels)):
                raise ModelLoadFailed(f"the model gives {answered[-1]} numbers for {len(labels)} labels")
            if model is not None and compiler is not None:
                compile_in_background(forward, example, compiler)
            elif model is not None:
                forward.tune(example)
            return cls(forward, preprocessing, labels, draft, one_shape)
        except Exception as failure:
            raise load_failure(failure, folder) from failure

    @property
    def resident_bytes(self) -> int:
        return self._forward.form.resident_bytes if self._forward else 0

    @property
    def batch_size(self) -> int:
        return self._forward.form.batch_size if self._forward else 1

    @property
    def at_once(self) -> int:
        return self._forward.form.at_once if self._forward else 1

    @property
    def runtime_info(self) -> tuple[str, ...]:
        preprocessing, forward = self._preprocessing, self._forward
        return () if preprocessing is None or forward is None else (preprocessing.note, *forward.runtime_info)

    def preprocess(self, image_data: bytes) -> Item:
        """Ready for the forward: pixel values [channels, height, width], or whatever else the model takes.

        Raises InvalidImage. For any thread.
        """
        preprocessing = self._preprocessing
        if preprocessing is None:
            raise Internal("the model is closed")
        at_least = preprocessing.at_least if self._draft else None
        with decoded(image_data, preprocessing.mode, at_least, preprocessing.bytes_per_pixel) as image:
            return preprocessed(image, preprocessing)

    def classify(self, images: Sequence[Item | bytes], exclusive: bool = False) -> list[np.ndarray | ServingError]:
        """One item an image, in order: probabilities float32 [labels], or the error of that image alone.

        An image is what `preprocess` gave, or a file that is to be preprocessed here. `exclusive`: all cores are free.
        """
        ready = [self._ready(image) for image in images]
        answers = partial(self._answers, exclusive=exclusive)
        return in_batches(ready, self.batch_size, answers, self._fault, self._fitted)

    def best(self, probabilities: np.ndarray, top_k: int) -> tuple[list[str], list[float]]:
        """The `top_k` most probable labels and their probabilities, most probable first; 0 means all."""
        order = np.argsort(-probabilities, kind="stable")[: top_k or None]
        return [self.labels[i] for i in order], probabilities[order].tolist()

    def close(self) -> None:
        """Drop every reference to the model, so that its memory comes back."""
        self._forward = None
        self._preprocessing = None

    def _ready(self, image: Item | bytes) -> Item | ServingError:
        try:
            return self.preprocess(image) if isinstance(image, bytes) else image
        except ServingError as refused:
            return refused

    def _fault(self) -> ServingError:
        """Of an image for which the forward raised."""
        if not self._one_shape:
            return InvalidImage("the model gets images as large as they are, and takes none of this size")
        return Internal("the model failed on this image")

    def _answers(self, items: Sequence[Item], exclusive: bool) -> list[np.ndarray | ServingError]:
        """Answers for images of one shape. Raises whatever the forward raises."""
        forward = self._forward
        if forward is None:
            return [Internal("the model is closed")] * len(items)
        probabilities = forward(items, exclusive).numpy()
        finite = np.isfinite(probabilities).all(axis=1)
        return [
            row if whole else Internal("the model gave numbers that are not finite")
            for row, whole in zip(probabilities, finite, strict=True)
        ]


def _shapes(preprocessing: Preprocessing) -> set[Any]:
    """Of what it makes of images of any size."""
    return {preprocessing(image).shape for image in reference_images(preprocessing.mode)}


def _takes(model: Any, item: Any) -> bool:
    try:
        eager(model).logits(batch_of([item]))
    except Exception:  # Of whatever kind: each model has its own for a size that it does not take.
        return False
    return True


def _is_multi_label(config: Any) -> bool:
    """As the library's own pipeline decides it: a single label is a yes or no too."""
    return bool(config.problem_type == "multi_label_classification" or config.num_labels == 1)
