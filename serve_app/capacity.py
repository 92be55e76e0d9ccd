"""Whether the replicas that are always there fit on a machine."""

from collections.abc import Sequence

from deployments.replica.family import Family
from deployments.system.cpu import machine_cpus
from serve_app.config.config import RuntimeConfig


def refuse_shortage(config: RuntimeConfig, families: Sequence[Family]) -> None:
    """Raises ValueError where this machine has too few CPUs: Ray would wait for others for ever."""
    if (line := shortage(config, families, machine_cpus())) is not None:
        raise ValueError(line)


def shortage(config: RuntimeConfig, families: Sequence[Family], cpus: float) -> str | None:
    """One line that says which CPUs are missing; None where the replicas fit."""
    rows = [("ingress", config.ingress.autoscaling.min_replicas, config.ingress.num_cpus)]
    for family in families:
        settings = config.settings(family.name)
        rows.append((f"families.{family.name}", settings.autoscaling.min_replicas, settings.num_cpus))
    needed = sum(replicas * each for _, replicas, each in rows)
    largest = max(each for _, _, each in rows)
    if max(needed, largest) <= cpus:
        return None
    asked = ", ".join(f"{name} {replicas} x {each:g}" for name, replicas, each in rows if replicas or each > cpus)
    return (
        f"the replicas need {max(needed, largest):g} CPUs and Ray counts {cpus:g} here ({asked}); "
        "set `num_cpus` lower, which only Ray's scheduler reads: 0 is allowed"
    )
