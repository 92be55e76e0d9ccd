"""Whether the replicas that are always there fit on a machine, and what one waits for that finds no room."""

import json
import re
from collections.abc import Mapping, Sequence

from deployments.replica.family import Family
from deployments.system.cpu import machine_cpus
from serve_app.config.config import RuntimeConfig

SAYS_WHAT_IS_MISSING = {
    "RAY_SERVE_SLOW_STARTUP_WARNING_S": "5",
    "RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S": "10",
}
"""For the environment that Serve's controller starts in: after so long it says for which resources a replica waits, and
so often. It has 30 s for both."""
_UNPLACED = re.compile(r"to be scheduled\..*each replica: (\{.*?\}), total resources available: (\{.*?\})", re.DOTALL)


def room_wanted(message: str) -> str | None:
    """What a replica waits for, by what Serve says of its deployment; None where none waits for room."""
    found = _UNPLACED.search(message)
    if found is None:
        return None
    needed, free = map(json.loads, found.groups())
    left = {name: free.get(name, 0.0) for name in needed}
    return f"a replica waits for {_listed(needed)} on one node; {_listed(left)} are free on all together"


def _listed(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


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
