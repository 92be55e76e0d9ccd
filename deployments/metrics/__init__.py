"""The runtime's metrics: recorded in each process, added up in one actor."""
