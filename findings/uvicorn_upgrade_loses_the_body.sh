#!/bin/bash
# uvicorn 0.54.0 with httptools 0.9.0, its faster parser. A request with `Connection: Upgrade` and a body reaches the
# application with an empty body, whatever protocol `Upgrade` names, though the server stays with HTTP/1.1 and answers. Every
# JDK HttpClient sends `Upgrade: h2c` with its first request.
# Guessed otherwise: RFC 9110, 7.8: a server may ignore Upgrade; the request is then an ordinary one. With uvicorn's other
# parser, h11, it is.
# Seen (exit 0 while it is so):
#   uvicorn 0.54.0, httptools: plain b'12345', with Upgrade b''
#   uvicorn 0.54.0, h11: plain b'12345', with Upgrade b'12345'
# Here it touches serve_app/http/haproxy_config.py, which removes the header before uvicorn sees it.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import http.client
import importlib.metadata
import socket
import threading

import uvicorn


async def echo(scope, receive, send):
    body = b""
    while (message := await receive()).get("more_body", False):
        body += message["body"]
    body += message.get("body", b"")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def answered(parser, headers):
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(echo, http=parser, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with socket.create_connection(listener.getsockname(), timeout=10) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + headers + b"\r\n12345")
        reply = http.client.HTTPResponse(client)
        reply.begin()
        received = reply.read()
    server.should_exit = True
    thread.join()
    return received


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
seen = {}
for parser in ("httptools", "h11"):
    seen[parser] = answered(parser, b""), answered(parser, UPGRADE)
    print(f"uvicorn {importlib.metadata.version('uvicorn')}, {parser}:", end=" ")
    print(f"plain {seen[parser][0]!r}, with Upgrade {seen[parser][1]!r}")
raise SystemExit(seen != {"httptools": (b"12345", b""), "h11": (b"12345", b"12345")})
PYTHON
