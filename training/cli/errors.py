"""User-fixable errors of a command as one line and exit code 2."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_sentence_errors(command: str) -> Iterator[None]:
    """Print user-fixable errors as one line that begins with `command`, and exit with code 2."""
    from clients.local_server import LocalServerError
    from training.common.errors import TrainingError

    signal.signal(signal.SIGTERM, _exit)
    os.environ.setdefault("NO_PROXY", "127.0.0.1")  # a server started here is never behind a proxy
    try:
        yield
    except (TrainingError, LocalServerError) as error:
        _fail(command, error)
    except ModuleNotFoundError as error:
        _fail(command, f"needs {error.name}: run `pip install 'entrostat[train]'`")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(command, f"{error}: free some space and re-run the same command to resume")
        if error.filename is None:  # of a socket or a pipe, not of a path that the user named
            raise
        _fail(command, f"{str(error.filename)[:200]}: {error.strerror}")
    except KeyboardInterrupt:
        print("stopped: re-run the same command to resume", file=sys.stderr)
        raise SystemExit(130) from None


def _exit(signum: int, frame: object) -> None:
    """Unwind on SIGTERM, so that a server started here is stopped too."""
    raise SystemExit(143)


def _fail(command: str, message: object) -> None:
    from clients.render import printable

    print(printable(f"{command}: {message}"), file=sys.stderr)
    raise SystemExit(2)
