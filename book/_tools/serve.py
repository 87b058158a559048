"""Serve the built book on this machine and open it: `make serve`."""

from __future__ import annotations

import functools
import http.server
import sys
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, without a line for every request."""

    def log_message(self, *arguments) -> None:
        pass


def server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of ``folder`` on 127.0.0.1; port 0 takes a free one."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


def main(port: int) -> None:
    """Serve until Ctrl-C."""
    try:
        running = server(ROOT / "_build" / "html", port)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"Port {port} cannot be used ({error}); choose another with PORT=.") from error
    url = f"http://127.0.0.1:{port}/"
    print(f"{url}  (Ctrl-C ends)", flush=True)
    webbrowser.open(url)
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        running.server_close()


if __name__ == "__main__":
    if not sys.argv[1].isdecimal():
        raise SystemExit(f"PORT={sys.argv[1]} is not a number; expected one such as 8000.")
    main(int(sys.argv[1]))
