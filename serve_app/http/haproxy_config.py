"""Rewrites the HAProxy configuration that Ray Serve generates. Text in, text out; starts nothing.

Requests come in at the host that Serve was told; its other listeners move to loopback, and the admin socket becomes
private. Limits on time, size and connections are added, and every reply that HAProxy makes itself has the shape of the
contract's `Error`.
"""

import json
import re
from pathlib import Path

from deployments.contract import errors
from deployments.contract.types import Error
from deployments.contract.wire import JSON, to_object
from deployments.replica.launcher_profile import LauncherProfile
from serve_app.http.header_limits import MAX_HEADER_BYTES, MAX_HEADERS, PREFIX_HEADER

HEADERS_TIMEOUT_S = 10
"""How long a client may take to send a request's headers."""
MAX_CONNECTIONS_PER_ADDRESS = 256
"""Loopback, where reverse proxies run, has no such limit."""
MAX_PARSED_HEADERS = 4 * MAX_HEADERS
"""HAProxy parses headers within this and BUFFER_BYTES, and refuses them with `headers_too_large`. It cannot parse more:
its answer to that, and to anything that is not HTTP, is its own page with status 400, which cannot be configured."""
_OTHERS = re.compile(r"^((?:frontend prometheus|listen stats)\n *bind )\*?:", re.MULTILINE)
"""What Serve binds to every address, whatever its host."""
_MARK = "# adapted by model-runtime-haproxy\n"
_MAX_HEADER_BYTES = MAX_HEADER_BYTES - 1024
"""HAProxy counts the headers alone; the rest is for the path."""
_REPLIES = {
    400: errors.InvalidRequest("malformed HTTP, or a head that is too large"),
    408: errors.RequestTimeout("the request was not complete in time"),
    500: errors.Unavailable("the proxy cannot pass the request on"),
    502: errors.Unavailable("the ingress replica was lost"),
    503: errors.Unavailable("no ingress replica answers"),
    504: errors.Unavailable("the ingress replica did not answer"),
}
_NO_ROUTE = errors.NotFound("there is no such route")
_NO_APPLICATION = errors.Unavailable("the proxy knows no application yet")
_TOO_MANY = errors.Overloaded("too many connections from one address")
_LARGE_HEADERS = errors.HeadersTooLarge(
    f"more than {MAX_HEADERS} headers, or more than {_MAX_HEADER_BYTES} bytes of them"
)
_NO_HOST = errors.InvalidRequest("a request needs one Host header that names a host")


def adapted(configuration: str, folder: Path, profile: LauncherProfile) -> str:
    """The configuration with our limits and replies. The files of the replies are written into `folder`."""
    if configuration.startswith(_MARK):  # Serve starts the program twice for one file: first to check it.
        return configuration
    text = _MARK + _OTHERS.sub(r"\g<1>127.0.0.1:", configuration)
    text = text.replace(" mode 666 level admin", " mode 600 level admin")
    # The log socket that Serve configures for each request has no reader.
    text = re.sub(r"^ *(errorfile|log|option httplog|option log-health-checks)\b.*\n", "", text, flags=re.MULTILINE)
    text = text.replace("global\n", f"global\n    tune.http.maxhdr {MAX_PARSED_HEADERS}\n", 1)
    ours = [f"    timeout http-request {HEADERS_TIMEOUT_S}s", *(f"    {line}" for line in error_files(folder))]
    text = text.replace("defaults\n    mode http\n", "\n".join(["defaults", "    mode http", *ours, ""]), 1)
    server = re.compile(r"^( *server \S+-(\w+) )(\S+):(\d+)( check.*)$", re.MULTILINE)
    text = server.sub(lambda line: _through_socket(line, profile), text)
    text = re.sub(r"(frontend http_frontend\n *bind .*\n)", lambda bind: bind[1] + _front_rules(profile), text, count=1)
    for backend, prefix in re.findall(r"^ *acl is_(\S+) path (/\S+)$", text, re.MULTILINE):
        mark = f"    http-request set-header {PREFIX_HEADER} {prefix}\n"
        text = re.sub(rf"^backend {re.escape(backend)}\n", rf"\g<0>{mark}", text, flags=re.MULTILINE)
    text = re.sub(r"http-request return .* if routes\n", lambda _: _returned(_NO_ROUTE, "routes") + "\n", text)
    # Serve starts HAProxy before it tells it of any application, also in place of one that was killed.
    otherwise = _NO_ROUTE if re.search(r"^ *use_backend ", text, re.MULTILINE) else _NO_APPLICATION
    not_found = r"http-request return status 404 content-type text/plain lf-string .*"
    return re.sub(not_found, lambda _: _returned(otherwise), text)


def error_files(folder: Path) -> list[str]:
    """The lines for the replies that HAProxy makes itself. Writes the replies into `folder`."""
    lines = []
    for status, failure in _REPLIES.items():
        reply = folder / f"{status}.http"
        reply.write_text(_error_file(failure), "utf-8")
        lines.append(f"errorfile {status} {reply}")
    return lines


def _front_rules(profile: LauncherProfile) -> str:
    limit = profile.max_body_file
    rules = front_rules(limit.read_text("utf-8") if limit.exists() else "")
    return "".join(f"    {rule}\n" for rule in rules)


def front_rules(max_body_bytes: str) -> list[str]:
    """The rules that every request passes first. `max_body_bytes` is empty where only the ingress limits bodies."""
    given = "req.hdr(x-request-id)"
    local = "{ src 127.0.0.0/8 ::1 }"
    too_large = f"{{ req.fhdr_cnt gt {MAX_HEADERS} }} || {{ req.hdrs,length gt {_MAX_HEADER_BYTES} }}"
    rules = [
        # Headers with other characters than letters, digits and dashes: Serve reads an underscore as a dash.
        "option http-restrict-req-hdr-names delete",
        "option disable-h2-upgrade",
        "stick-table type ipv6 size 100k expire 60s store conn_cur",
        f"tcp-request connection track-sc0 src unless {local}",
        # What HAProxy or a client sends again has the id that it had, by which a sampled text is the same.
        "http-request set-var(txn.id) uuid()",
        f"http-request set-var(txn.id) {given} if {{ {given} -m reg ^[A-Za-z0-9._:-]{{1,128}}$ }}",
        f"http-request set-header x-request-id %[var(txn.id)] if !{{ {given} -m reg ^[!-~]{{1,128}}$ }}",
        _returned(_TOO_MANY, f"{{ sc0_conn_cur gt {MAX_CONNECTIONS_PER_ADDRESS} }}"),
        _returned(_LARGE_HEADERS, too_large),
        _returned(_NO_HOST, "HTTP_1.1 !{ req.fhdr_cnt(host) eq 1 }"),
        _returned(_NO_HOST, "{ req.fhdr(host) -m found } !{ req.fhdr(host) -m reg ^[]A-Za-z0-9._:[-]*$ }"),
        "http-request del-header upgrade",
        f"http-request del-header {PREFIX_HEADER}",
    ]
    if max_body_bytes:
        # In a stream of JSON lines the limit holds for each line, not for the whole body.
        lines = "{ req.hdr(content-type) -m beg -i application/x-ndjson }"
        large = errors.PayloadTooLarge(f"the body is larger than {max_body_bytes} bytes")  # As the ingress says it.
        rules.append(_returned(large, f"{{ req.hdr_val(content-length) gt {max_body_bytes} }} !{lines}"))
    return rules


def _returned(failure: errors.ServingError, condition: str = "") -> str:
    """A rule with which HAProxy itself answers with the error."""
    body = json.dumps(to_object(Error.of(failure, "%[var(txn.id)]"))).replace('"', r"\"")
    headers = "hdr x-request-id %[var(txn.id)]" + (" hdr retry-after 1" if failure.retryable else "")
    rule = f'http-request return status {failure.status} content-type {JSON} lf-string "{body}" {headers}'
    return f"{rule} if {condition}" if condition else rule


def _through_socket(line: re.Match[str], profile: LauncherProfile) -> str:
    """A `server` line through the replica's Unix socket, if it is on this node. Health is checked at Serve's port."""
    server, replica_id, host, port, rest = line.groups()
    path = profile.socket(replica_id)
    return f"{server}unix@{path}{rest} addr {host} port {port}" if path.is_socket() else line[0]


def _error_file(failure: errors.ServingError) -> str:
    """A whole HTTP response, as `errorfile` needs it."""
    body = json.dumps(to_object(Error.of(failure)))
    retry_after = "Retry-After: 1\r\n" if failure.retryable else ""
    return (
        f"HTTP/1.1 {failure.status} {failure.code}\r\nContent-Type: {JSON}\r\n{retry_after}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
