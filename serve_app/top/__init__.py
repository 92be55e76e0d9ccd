"""`model-runtime top`: a running runtime, watched on a terminal."""
