"""The home page, and Swagger UI at `/docs`: static files, which say nothing of this runtime but its families' names.

Their scripts ask the other routes, with the key that the page is given. A strict Content-Security-Policy keeps them
from asking anything else.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from deployments.contract.errors import NotFound
from deployments.contract.types import InferRequest
from deployments.replica.family import Form

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # the browser asks each time whether a file has changed
}


class _Files(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.get_response(self.get_path(scope), scope)
        response.headers.update(HEADERS)
        await response(scope, receive, send)


def page_routes(
    is_shown: Callable[[], bool], families: Mapping[str, type[InferRequest]], forms: Sequence[Form]
) -> list[BaseRoute]:
    """`/` and `/docs`. `is_shown`: whether there is a home page, asked each time: keys may come and go.

    `families`: the request of each.
    """
    described = json.dumps([_described(name, request, forms) for name, request in families.items()])

    async def home(request: Request) -> Response:
        if not is_shown():
            raise NotFound("there is no route '/'")
        page = (STATIC / "index.html").read_text("utf-8")
        page = page.replace('data-families="[]"', f'data-families="{escape(described)}"')
        return _page(page, request)

    async def docs(request: Request) -> Response:
        return _page((STATIC / "docs.html").read_text("utf-8"), request)

    return [
        Route("/", home, include_in_schema=False),
        Mount("/home", _Files(directory=STATIC)),
        Route("/docs", docs),
        Mount("/docs/swagger", _Files(packages=[("fastapi_swagger", "resources")])),
    ]


def _page(page: str, request: Request) -> HTMLResponse:
    """The page's own links are relative to the application, wherever that is mounted."""
    base = escape(request.scope.get("root_path", "")) + "/"
    return HTMLResponse(page.replace('<base href="./">', f'<base href="{base}">'), headers=HEADERS)


def _described(name: str, request: type[InferRequest], forms: Sequence[Form]) -> dict[str, object]:
    form = next((form for form in forms if form.request is request), None)
    file = {"file": form.file, "field": form.field} if form else None
    return {"name": name, "request": request.__name__, "form": file}
