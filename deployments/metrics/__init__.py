"""The runtime's metrics: recorded in processes, added up in one actor."""
