"""What `model-runtime serve` starts, it watches; and it ends with it. Knows no Ray."""
