"""Text models on the paged attention of OpenVINO, for CPUs."""
