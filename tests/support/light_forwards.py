"""Two models whose forwards run side by side, one asked three times as often. Runs as a program, with a folder.

Prints what the one used ÷ what the other used, and what both used ÷ what the process used beside its event loop. In a
process of its own: whatever else computes would count.
"""

import asyncio
import shutil
import sys
import time
from pathlib import Path

from transformers import AutoModelForImageClassification, MobileNetV2Config
from transformers.models.mobilenet_v2 import MobileNetV2ImageProcessorPil

from deployments.contract.types import ImageClassification, ImageClassificationResult
from deployments.engines.vision import forward, openvino_cache, openvino_compile
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION
from deployments.families.image_classification.replica import ImageClassificationReplica
from deployments.replica.calls import Call
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from tests.support.image_models import encoded, labelled, photo


def beside_this_thread() -> float:
    """CPU seconds."""
    return time.process_time() - time.thread_time()


async def main(root: Path) -> None:
    AutoModelForImageClassification.from_config(MobileNetV2Config(**labelled())).save_pretrained(root / "often")
    MobileNetV2ImageProcessorPil().save_pretrained(root / "often")
    shutil.copytree(root / "often", root / "seldom")
    # Whether it is faster, and how light it is, is not the claim here.
    openvino_compile.best_batch_size = lambda *_: (1, float("inf"))
    openvino_compile.LIGHT_S, forward.WORTH_IT = float("inf"), 0.0
    openvino_cache.make_in_child = openvino_compile.make

    formats = model_formats([IMAGE_CLASSIFICATION])
    replica = ImageClassificationReplica(
        ReplicaOptions(IMAGE_CLASSIFICATION, root, formats, IMAGE_CLASSIFICATION.options(), root.parent / "cache")
    )
    models, file = replica.options.repository().models(), encoded(photo(), "JPEG")

    async def ask(name: str) -> None:
        request = ImageClassification(model_id=name, image_data=file)
        assert isinstance(await replica.infer(Call(request, "", 60.0, models[name])), ImageClassificationResult)

    for name in models:
        await ask(name)
        while "being compiled" in str(replica.residency.statuses()):
            await asyncio.sleep(0.05)
    assert str(replica.residency.statuses()).count("2 at once") == 2
    await asyncio.gather(*(ask(name) for name in [*models] * 8))  # every thread has begun
    before, others_s = replica.cpu.sample(), beside_this_thread()
    await asyncio.gather(*(ask(name) for name in ["often", "seldom", "often", "often"] * 50))
    after, others_s = replica.cpu.sample(), beside_this_thread() - others_s
    often, seldom = (after[name] - before[name] for name in ("often", "seldom"))
    print(often / seldom, (often + seldom) / others_s)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
