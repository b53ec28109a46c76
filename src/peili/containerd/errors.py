"""What can go wrong between Peili and containerd, each with a sentence for the operator."""

from __future__ import annotations

import socket
import stat
from enum import StrEnum
from pathlib import Path


class Failure(StrEnum):
    """Why containerd did not do what was asked."""

    UNAVAILABLE = "unavailable"  # nothing answers, or not in time; trying again may help
    NOT_FOUND = "not found"  # containerd answered: there is no such thing
    PERMISSION = "permission"  # this process may not open the socket, or containerd refuses it
    UNSUPPORTED = "unsupported"  # something answers, but it is not containerd or lacks this service
    OTHER = "other"


class ContainerdError(Exception):
    """A call to containerd failed. The text is for the operator; `failure` is for decisions."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def explain_socket(path: Path) -> ContainerdError:
    """Why a connection to this unix socket fails, as far as one look can tell. Never blocks on the peer."""
    failure = Failure.UNAVAILABLE
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            text = f"{path} is not a socket: name containerd's own socket"
        else:
            _probe(path)
            text = f"something listens on {path} but does not speak gRPC as containerd does"
    except FileNotFoundError:
        text = f"there is no socket at {path}: is containerd running, and is this its socket?"
    except PermissionError:
        failure = Failure.PERMISSION
        text = f"no permission to open {path}: run Peili as root, or as a group that may"
    except ConnectionRefusedError:
        text = f"nobody listens on {path}: containerd is stopped or has not started yet"
    except BlockingIOError:
        text = f"{path} accepts no connection now: containerd is overloaded"
    except OSError as error:
        text = f"cannot open {path}: {error.strerror or error}"
    return ContainerdError(failure, text)


def _probe(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        probe.connect(str(path))
