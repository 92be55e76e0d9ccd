"""Which models exist and which version serves: one actor owns it, each ingress mirrors it."""
