"""Wait until each address of argv answers: `tcp://HOST:PORT` by taking a connection, `http://HOST:PORT/PATH` with 200.

It waits as long as it takes, since a model may load for minutes, and says every few seconds for what. Runs with the
standard library alone, before a part of the trainer on Kubernetes.
"""

import socket
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

POLL_S = 2.0
TIMEOUT_S = 5.0


def reason(address: str) -> str | None:
    """None when `address` answers, else why not yet."""
    url = urlsplit(address)
    try:
        if url.scheme == "tcp":
            socket.create_connection((url.hostname, url.port), timeout=TIMEOUT_S).close()
        else:
            urllib.request.urlopen(address, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read(300).decode(errors='replace')}"
    except OSError as error:
        return str(error)
    return None


def main(addresses: list[str]) -> None:
    for address in addresses:
        said = None
        while (why := reason(address)) is not None:
            if why != said:
                print(f"waiting for {address}: {why}", flush=True)
            said = why
            time.sleep(POLL_S)
        print(f"{address} answers", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
