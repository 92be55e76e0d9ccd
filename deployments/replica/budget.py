"""How much memory a replica has for its models: as in its settings, else a share of its node's or its GPU's."""

import platform
from collections.abc import Callable
from pathlib import Path

from deployments.contract.settings import FamilySettings
from deployments.residency.ledger import MIB, Limit
from deployments.system.node_memory import MemoryShares, node_memory

SHARE_FOR_MODELS = 0.7
"""Of a node's memory, for the models of all replicas on it. The rest is for libraries (300 MiB a process), Ray,
requests under way and the kernel's cache of files. More fits more models and risks the kernel's out-of-memory killer.
Not measured."""
GPU_SHARE_FOR_MODELS = 0.9
"""Of the replica's part of a GPU. The rest is for forwards. Not measured."""


class Budget:
    """Asked every second: replicas come and go. `cache` is the node's folder in which replicas see each other."""

    def __init__(
        self, family: str, settings: FamilySettings, cache: Path, memory_of_node: Callable[[], int] = node_memory
    ) -> None:
        """Raises PermissionError where others may write to `cache`."""
        self._family = family
        self._settings = settings
        self._memory_of_node = memory_of_node
        self._gpu_bytes: int | None = None
        fixed = settings.required_mem_mb
        # A cache may lie in a home that several nodes share.
        here = cache / "replicas" / (platform.node() or "node")
        self._shares = MemoryShares(here, None if fixed is None else fixed * MIB)

    def use_gpu(self, total_bytes: int) -> None:
        """The models are on a GPU from now on, of which the replica may take `total_bytes`."""
        self._gpu_bytes = total_bytes
        self._shares.leave()

    def has_models(self) -> None:
        """The family has models: the other replicas of the node leave it a share of the node's memory."""
        if self._gpu_bytes is None:
            self._shares.join()

    def limit(self) -> Limit:
        """As of now."""
        fixed, setting = self._settings.required_mem_mb, f"families.{self._family}.required_mem_mb"
        if self._gpu_bytes is not None and (fixed is None or fixed * MIB > self._gpu_bytes):
            part, share = int(self._gpu_bytes * GPU_SHARE_FOR_MODELS), self._settings.num_gpus or 1.0
            setting, shown = f"families.{self._family}.num_gpus", f"{share:g}"
            return Limit(self._gpu_bytes if fixed else part, setting, shown, part / share)
        if fixed is not None:
            return Limit(fixed * MIB, setting, str(fixed))
        node = self._memory_of_node()
        shown = f"not set (a share of the node's {node // MIB} MiB)"
        return Limit(self._shares.share(int(node * SHARE_FOR_MODELS)), setting, shown)
