"""The entry point of `llmctl` and `python -m llmctl`: a signal ends it quietly even while the command line is imported."""

import os
import signal
import sys
from typing import Any

CODES = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def main() -> None:
    """Run the command line and exit with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup and background jobs ignore it
        signal.signal(signal.SIGINT, _end)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate)
    from llmctl.cli.main import main

    main()


def _end(number: int, frame: Any) -> None:
    """End before and after the work, when nothing has to be cleaned up. Imports nothing: an import may be under way."""
    code, kind = CODES[signal.Signals(number)]
    if "--json" in sys.argv:
        verb = next((word for word in sys.argv[1:] if word.isalpha()), "llmctl")
        error = f'{{"kind": "{kind}", "message": "{kind}", "hint": null, "exit_code": {code}}}'
        _write(1, f'{{"schema": "llmctl.{verb}/1", "status": "error", "error": {error}}}\n'.encode())
    _write(2, f"error: {kind}\n".encode())
    os._exit(code)


def _terminate(number: int, frame: Any) -> None:
    """A terminal that closes ends the command as SIGTERM does: what is half made is removed, or saved to be resumed."""
    os.kill(os.getpid(), signal.SIGTERM)


def _write(descriptor: int, text: bytes) -> None:
    try:
        os.write(descriptor, text)
    except OSError:
        return  # closed by the caller


if __name__ == "__main__":
    main()
