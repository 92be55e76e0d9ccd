"""What a caller or an operator meets: the application, its entrances, its configuration."""
