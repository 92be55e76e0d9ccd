"""HTTP: reads requests, keeps limits, writes responses. Knows no models and no replicas."""
