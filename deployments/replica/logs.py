"""Where our lines go in a process of Serve's: into Serve's file of the process, and to stderr. Imports no Ray."""

import logging
from logging.handlers import MemoryHandler

OURS = ("model_runtime", "deployments", "serve_app")
"""The loggers whose lines would else reach stderr alone, from WARNING on, without a time or a replica."""


def join_serves_log() -> None:
    """Gives our loggers Serve's handlers and level. Changes nothing where Serve writes no file."""
    serve = logging.getLogger("ray.serve")
    if not any(isinstance(handler, MemoryHandler) for handler in serve.handlers):
        return
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = serve.handlers  # The list itself: Serve may fill it anew.
        logger.setLevel(serve.level)
        logger.propagate = False
