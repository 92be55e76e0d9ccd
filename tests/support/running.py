"""The application under test on the session's Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.families.speech_to_text.family import SpeechToTextOptions
from deployments.families.text_embedding.family import TextEmbeddingOptions
from serve_app.config.config import IngressSettings, RuntimeConfig

CONFIG = RuntimeConfig(
    ingress=IngressSettings(max_body_mb=1),
    families={  # the others share the session's one
        "text_embedding": TextEmbeddingOptions(num_gpus=0),
        "speech_to_text": SpeechToTextOptions(num_gpus=0),
    },
)


@dataclass(frozen=True)
class Running:
    """Its two entrances, its models, and a picture to send."""

    url: str
    handle: Any
    models: Path
    picture: Path
    config: RuntimeConfig


def replica_pids(application: str, deployment: str) -> list[int]:
    """The processes of a deployment's replicas that run."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    details = client.get_serve_details()
    replicas = details["applications"][application]["deployments"][deployment]["replicas"]
    return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]
