"""What a text model's folder says of it. Knows configurations, not requests."""
