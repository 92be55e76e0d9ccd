"""The process and the machine: CPUs, memory, child processes, files on disk. Imports nothing else of the project."""
