"""The child of `worker`, limited: 64 MiB of memory, no files."""

from deployments.system.worker_process import serve
from tests.support.worker import answer

if __name__ == "__main__":
    serve(answer, memory_bytes=64 * 2**20, file_bytes=0)
