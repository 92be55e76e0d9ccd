"""The model families: one folder for each, with its Serve deployment, its options and its row in the table."""
