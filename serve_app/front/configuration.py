"""The configuration of HAProxy: one listener, and a place for each ingress replica. Text out; starts nothing.

It is the same from the start to the end of the runtime: HAProxy finds out by health checks which replicas there are.
"""

from deployments.contract.settings import LONGEST_REQUEST_S
from deployments.replica.launcher_profile import LauncherProfile
from serve_app.config.config import RuntimeConfig
from serve_app.http.haproxy import BUFFER_BYTES, IDLE_CONNECTION_S, MAX_CONNECTIONS, RESPONSE_GRACE_S
from serve_app.http.haproxy_config import HEADERS_TIMEOUT_S, MAX_PARSED_HEADERS, error_files, front_rules

CONNECT_TIMEOUT_S = 2
BODY_TIMEOUT_S = 15
"""Of a body that fits into the buffer. Larger ones are passed on as they come, and the ingress limits their time."""
RETRIES = 3
CHECKED = "check inter 1s fastinter 250ms downinter 250ms fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down"
"""A replica whose socket refuses a connection has ended: it is left out at once, until a health check succeeds."""

SERVES_HEALTH = (
    "acl serves_health path -i /-/healthz",
    "http-request return status 200 content-type text/plain string success if serves_health { nbsrv(ingress) ge 1 }",
    'http-request return status 503 content-type text/plain string "Service Unavailable" if serves_health',
)
"""The health path of Serve's own proxies, answered as they do: a load balancer's check fits however it is started."""


def places(config: RuntimeConfig) -> int:
    """How many ingress replicas may be there at once: as many again as serve may be ending."""
    return 2 * config.ingress.autoscaling.max_replicas


def configuration(config: RuntimeConfig, profile: LauncherProfile, listener: str) -> str:
    """`listener` is what follows `bind`. Writes HAProxy's own replies into the profile's folder."""
    # Of any configuration that the runtime may have later.
    longest_s = max(LONGEST_REQUEST_S, *(settings.longest_deadline_s for settings in config.families.values()), 0)
    long_body = f"{{ req.hdr_val(content-length) ge {BUFFER_BYTES} }}"
    servers = [f"ingress-{place} unix@{profile.ingress_socket(place)}" for place in range(places(config))]
    sections = {
        "global": [
            f"maxconn {MAX_CONNECTIONS}",
            "nbthread 1",
            f"tune.bufsize {BUFFER_BYTES}",
            f"tune.http.maxhdr {MAX_PARSED_HEADERS}",
            "ssl-default-bind-options ssl-min-ver TLSv1.2",
        ],
        "defaults": [
            "mode http",
            f"timeout http-request {HEADERS_TIMEOUT_S}s",
            f"timeout connect {CONNECT_TIMEOUT_S}s",
            f"timeout client {IDLE_CONNECTION_S}s",
            f"timeout server {int(longest_s) + RESPONSE_GRACE_S}s",
            "option abortonclose",
            "option splice-request",
            "option splice-response",
            "option http-no-delay",
            # A request goes to another replica where one took it not, or ended before a byte of the answer. Only what
            # fits into the buffer can be sent again.
            "option redispatch 1",
            "retry-on conn-failure empty-response",
            f"retries {RETRIES}",
            *error_files(profile.folder),
        ],
        "frontend http_frontend": [
            f"bind {listener}",
            *front_rules(str(config.ingress.max_body_bytes)),
            *SERVES_HEALTH,
            # HAProxy keeps for a repeat only what it had received whole before it sent it on.
            f"http-request wait-for-body time {BODY_TIMEOUT_S}s if {{ req.hdr_val(content-length) gt 0 }} !{long_body}",
            f"use_backend large if {long_body} || {{ req.hdr(transfer-encoding) -m found }}",
            "default_backend ingress",
        ],
        "backend ingress": [
            "balance leastconn",
            "http-reuse always",
            "option httpchk",
            "http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host localhost",
            *(f"server {server} {CHECKED}" for server in servers),
        ],
        # Where a replica ends with a request that came on a connection in use before, HAProxy closes the caller's
        # connection without a word. What cannot be repeated has a connection of its own, and its caller an error.
        "backend large": [
            "balance leastconn",
            "http-reuse never",
            *(f"server {server} track ingress/{server.split()[0]}" for server in servers),
        ],
    }
    return "".join(f"{name}\n" + "".join(f"    {line}\n" for line in lines) for name, lines in sections.items())
