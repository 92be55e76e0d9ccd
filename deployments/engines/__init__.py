"""Engines: torch and transformers on one model folder. They know neither Ray nor HTTP."""
