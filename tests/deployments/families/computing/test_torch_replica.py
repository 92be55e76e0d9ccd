"""What all replicas that compute with torch have; their own tests run them."""

from pkgutil import resolve_name
from typing import Any

from deployments.families.computing.torch_replica import Batched, TorchReplica
from deployments.families.table import FAMILIES


class Engine:
    resident_bytes = 7
    runtime_info = ("how it runs",)
    closed = False

    def close(self) -> None:
        self.closed = True


def test_an_engine_with_a_batcher_is_the_engine_to_the_residency() -> None:
    engine = Engine()
    batched: Batched[Engine, Any, Any] = Batched(engine, batcher=None)  # type: ignore[arg-type]  # is not used here
    assert (batched.resident_bytes, batched.runtime_info) == (7, ("how it runs",))
    batched.close()
    assert engine.closed


def test_every_family_takes_its_threads_and_its_device_from_here() -> None:
    assert all(issubclass(resolve_name(family.deployment), TorchReplica) for family in FAMILIES)
