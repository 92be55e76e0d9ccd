"""`model-runtime bench`: load on a running runtime, and what it measures."""
