"""What is wrong with a configuration on this machine, before anything is started: models, places, CPUs, certificate."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from deployments.contract.errors import ServingError
from deployments.replica.family import Family, model_formats
from deployments.repository.local import Repository
from deployments.repository.model import Model, find
from deployments.system.cache_folder import cache_folder
from deployments.system.cpu import machine_cpus
from serve_app.capacity import shortage
from serve_app.config.config import RuntimeConfig
from serve_app.config.serve_file import read_configs
from serve_app.front.tls import bundle


def mistakes_in(file: Path, families: Sequence[Family]) -> list[str]:
    """One line for each mistake in a file of either kind: RuntimeConfig, or for `serve deploy`."""
    try:
        configs = read_configs(file)
    except ValueError as wrong:
        return str(wrong).splitlines()
    return [f"{file.name}: {mistake}" for config in configs for mistake in mistakes_of(config, families)]


def mistakes_of(config: RuntimeConfig, families: Sequence[Family]) -> Iterator[str]:
    """One line for each."""
    if (line := shortage(config, families, machine_cpus())) is not None:
        yield line
    for target in config.link_targets:
        if not target.is_dir():
            yield f"link_targets: there is no folder {str(target)!r}"
    try:
        cache_folder(config.cache)
    except OSError as refused:
        yield str(refused)
    if config.tls_cert and config.tls_key:
        try:
            bundle(config.tls_cert, config.tls_key)
        except ValueError as refused:
            yield str(refused)
    try:
        models = Repository(config.repository(), model_formats(families), config.sources, config.link_targets).models()
    except (ValueError, OSError) as refused:
        yield str(refused) if isinstance(refused, ValueError) else f"models: {refused}"
        return
    yield from _broken(models.values())
    for family in families:
        for name in config.settings(family.name).preload:
            try:
                find(models, name, family.name)
            except ServingError as refused:
                yield f"families.{family.name}.preload: {refused.message}"


def _broken(models: Iterable[Model]) -> Iterator[str]:
    seen = {model.name: model.problem for model in models if model.problem is not None}
    yield from (f"models: {name}: {problem}" for name, problem in sorted(seen.items()))
