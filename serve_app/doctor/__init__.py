"""`model-runtime doctor`: what is wrong on this machine and in this configuration, and what to do."""
