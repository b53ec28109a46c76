"""Error bodies of the distribution specification (distribution-spec, section Error Codes)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

_MAXIMUM_MESSAGE_LENGTH = 500


class ErrorCode(StrEnum):
    """The codes that Peili answers with."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    DENIED = "DENIED"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    RANGE_INVALID = "RANGE_INVALID"
    UNAVAILABLE = "UNAVAILABLE"
    UNSUPPORTED = "UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered with content: an HTTP status, the specification's code, a sentence."""

    status: int
    code: ErrorCode
    message: str

    def body(self) -> bytes:
        """The JSON body that the specification asks for."""
        error = {"code": str(self.code), "message": self.message[:_MAXIMUM_MESSAGE_LENGTH]}
        return json.dumps({"errors": [error]}).encode()
