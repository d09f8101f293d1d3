"""The client that `docker exec` runs in the agent's container: it sends one request and prints the answer."""

from __future__ import annotations

import json
import socket
import sys

from chaosorca.model.contract import SOCKET


def main() -> int:
    """Send the request, which is the only argument. Return 0 if an answer arrives, even if the answer reports an error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(SOCKET)
        except OSError as error:
            print(json.dumps({"error": {"kind": "AgentError", "message": f"the agent is not ready: {error}"}}))
            return 3
        connection.sendall(sys.argv[1].encode() + b"\n")
        with connection.makefile() as answer:
            sys.stdout.write(answer.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
