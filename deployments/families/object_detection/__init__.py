"""The ObjectDetection family."""
