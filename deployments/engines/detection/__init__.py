"""Models that find objects: boxes, labels and scores."""
