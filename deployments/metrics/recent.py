"""The last requests of one ingress, by id. Knows no Ray; keeps nothing of what was asked or answered."""

from collections import OrderedDict

from deployments.contract.status import AnsweredRequest

KEPT = 2000


class RecentRequests:
    """The newest `kept` requests; of two with one id, the later one."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._requests: OrderedDict[str, AnsweredRequest] = OrderedDict()

    def add(self, request: AnsweredRequest) -> None:
        self._requests[request.request_id] = request
        self._requests.move_to_end(request.request_id)
        if len(self._requests) > self.kept:
            self._requests.popitem(last=False)

    def get(self, request_id: str) -> AnsweredRequest | None:
        return self._requests.get(request_id)
