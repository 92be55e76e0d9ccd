"""Calls under way, as the dispatcher makes them."""

import asyncio

from deployments.replica.calls import Call, TimeLimit
from serve_app.access.caller import ANONYMOUS, Caller
from serve_app.dispatch.pending import Pending, PendingStream


def pending_of(call: Call, caller: Caller = ANONYMOUS) -> Pending:
    return Pending(call=call, family="text", model=_model(call), caller=caller, limit=_limit(call))


def stream_of(call: Call) -> PendingStream:
    return PendingStream(call=call, family="text", model=_model(call), caller=ANONYMOUS, limit=_limit(call))


def _model(call: Call) -> str:
    return call.model.name if call.model else ""


def _limit(call: Call) -> TimeLimit:
    at = asyncio.get_running_loop().time() + call.timeout_s
    return TimeLimit(at, at)
