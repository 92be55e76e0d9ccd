"""Forwards compiled ahead of time: made in a child process, kept on disk, loaded and checked."""
