"""The HAProxy that `model-runtime serve` starts itself, in front of this machine's ingress replicas. Knows no Ray."""
