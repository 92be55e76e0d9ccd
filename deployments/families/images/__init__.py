"""What the families of images share."""
