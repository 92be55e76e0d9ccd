"""From a checked request to a replica: admission, the choice of a replica, transports, repeats."""
