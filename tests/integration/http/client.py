"""Send requests over raw sockets, as the JSON argument describes, and print the latencies in seconds as JSON.

`port`, `host`; `requests`: texts to send, each after the answers to the previous one; `answers`: the number of answers to each;
`end`: the text that ends an answer; `times`: how often all requests are sent on one connection; `connections`: their number;
`cut`: the bytes of a packet; `rest`: wait for the end of the connection and not for answers; `tls`: use TLS.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time


def talk(asked: dict, latencies: list[float]) -> None:
    family = socket.AF_INET6 if ":" in asked["host"] else socket.AF_INET
    connection = socket.socket(family)
    connection.settimeout(20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect((asked["host"], asked["port"]))
    if asked.get("tls"):
        connection = ssl._create_unverified_context().wrap_socket(connection)
    for _ in range(asked.get("times", 1)):
        for request in asked["requests"]:
            data, cut = request.encode("latin-1"), asked.get("cut", 1 << 20)
            began = time.monotonic()
            for at in range(0, len(data), cut):
                connection.sendall(data[at : at + cut])
            if asked.get("rest"):
                try:
                    while connection.recv(1 << 16):
                        pass
                except (ConnectionResetError, ssl.SSLEOFError):
                    pass
                continue
            received, ends = b"", asked.get("answers", 1)
            while received.count(asked["end"].encode()) < ends:
                some = connection.recv(1 << 16)
                assert some, received[-200:]
                if not received:
                    latencies.append(time.monotonic() - began)
                received += some
    connection.close()


asked = json.loads(sys.argv[1])
latencies: list[float] = []
threads = [threading.Thread(target=talk, args=(asked, latencies)) for _ in range(asked.get("connections", 1))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.stdout.write(json.dumps(latencies if len(latencies) < 2000 else []))
