"""A page for browsers at `/`: what runs, live charts, and a form for each family. Knows no Ray and no models."""
