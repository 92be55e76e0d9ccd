"""The HTTP application as the ingress builds it, around a test's runtime."""

from typing import Protocol

from starlette.applications import Starlette

from deployments.families.table import FAMILIES
from serve_app.access.api_keys import Access
from serve_app.config.config import IngressSettings
from serve_app.http.app import build_http_app
from serve_app.http.interfaces import Operations, Runtime
from serve_app.http.openai.routes import openai_api


class WholeRuntime(Runtime, Operations, Protocol):
    settings: IngressSettings
    access: Access


def http_app(runtime: WholeRuntime) -> Starlette:
    apis = (openai_api(runtime.settings, runtime, runtime),)
    forms = [family.form for family in FAMILIES if family.form]
    return build_http_app(runtime.settings, runtime.access, runtime, runtime, apis, forms)
