"""Which models exist and which version serves: one actor owns this table, each ingress has a mirror of it."""
