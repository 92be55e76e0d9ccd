"""Whether an input ends replicas, by how it fared. No I/O.

A death among others proves nothing: each of them may have caused it, or none. So a suspect is tried alone, and only a
death while it is alone counts. Suspects are all that a crashed replica computed. A replica that ended without a crash
was probably killed from outside: of its calls those are suspects that were lost before. One that the kernel killed for
want of memory has proven nothing either, but its calls are computed one by one from then on.
"""

from dataclasses import dataclass
from hashlib import blake2b

from deployments.contract.types import InferRequest
from deployments.replica.calls import Progress

MOST_DEATHS = 2
"""At so many deaths alone an input is refused."""
MOST_LOSSES = 6
"""After so many lost replicas a call is given up, whatever they died of."""
_NOT_INPUT = frozenset({"seed", "stream"})


@dataclass(slots=True)
class Trial:
    """Of one call."""

    losses: int = 0
    """Replicas that were lost with it."""
    deaths: int = 0
    """Of these, how many while it was alone there."""
    alone: bool = False
    """Whether it has to be alone the next time."""
    too_large: bool = False
    """Whether memory did not suffice for it alone."""
    _computed: int = 0

    def lost(self, progress: Progress, crashed: bool, starved: bool = False) -> None:
        """Its replica was lost. `starved`: the kernel killed it for want of memory."""
        self.losses += 1
        if progress is Progress.HELD:
            return
        self._computed += 1
        if starved:
            self.alone, self.too_large = True, progress is Progress.ALONE
            return
        self.deaths += progress is Progress.ALONE
        self.alone = crashed or self._computed > 1


def digest_of(request: InferRequest, model_digest: str) -> str:
    """The same for the same input to the same content of a model, whatever its seed, and streamed or not."""
    digest = blake2b(f"{type(request).__name__} {model_digest}".encode(), digest_size=16)
    for name, value in request:
        if name not in _NOT_INPUT and value is not None:
            digest.update(name.encode())
            digest.update(value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
