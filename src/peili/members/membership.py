"""This node as a member of its cluster: proves it, and judges the proofs of peers, with the keys of the moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import trio

from peili.members import request_mac
from peili.members.certificate_mac import EXTENSION_OID, extension_value, is_member
from peili.members.secret_file import Log, SecretFile, watch_secrets
from peili.members.secrets import MemberKeys


class Membership:
    """Holds the keys of the secret file, and follows the file while it runs."""

    def __init__(self, file: SecretFile, *, now: Callable[[], float] = time.time) -> None:
        """`now` gives Unix time in seconds: it has to mean the same on all nodes."""
        self._file = file
        self._keys = file.keys
        self._now = now
        self._callbacks: list[Callable[[], None]] = []

    async def run(self, log: Log, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the file until cancelled."""
        task_status.started()
        await watch_secrets(self._file, self.replace, log)

    def replace(self, keys: tuple[MemberKeys, ...]) -> None:
        """From now on the first of these keys is used, and all are accepted."""
        self._keys = keys
        for callback in self._callbacks:
            callback()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this whenever the keys have changed."""
        self._callbacks.append(callback)

    # For the router

    def extensions(self, public_key: bytes) -> dict[str, bytes]:
        """What our certificate with this public key (SubjectPublicKeyInfo, DER) has to carry, by dotted OID."""
        return {EXTENSION_OID: extension_value(self._keys[0].certificate, public_key)}

    def accepts(self, public_key: bytes, extensions: Mapping[str, bytes]) -> bool:
        """Whether a certificate with this public key and these extensions is a member's."""
        return is_member((keys.certificate for keys in self._keys), public_key, extensions.get(EXTENSION_OID))

    # For the registry endpoint, and for requests to those of peers

    def stamp(self, method: str, target: str) -> str:
        """The header's value of a request that is sent now."""
        return str(request_mac.sign(self._keys[0].request, method, target, self._now()))

    def objection(self, method: str, target: str, stamp: str | None) -> str:
        """Why a request with this stamp, received now, is not a member's; empty where it is one."""
        try:
            request_mac.check((keys.request for keys in self._keys), stamp, method, target, self._now())
        except request_mac.NotAMember as error:
            return str(error)
        return ""

    def answer_stamp(self, stamp: str, digest: str, media_type: str) -> str:
        """The header's value of the answer to a request with this stamp, which was found good."""
        return request_mac.sign_answer(self._keys[0].answer, request_mac.Stamp.parse(stamp), digest, media_type)

    def answer_objection(self, stamp: str, answer: str | None, digest: str, media_type: str) -> str:
        """Why this answer to a request with this stamp of ours is not a member's; empty where it is one."""
        keys = (keys.answer for keys in self._keys)
        try:
            request_mac.check_answer(keys, request_mac.Stamp.parse(stamp), answer, digest, media_type)
        except request_mac.NotAMember as error:
            return str(error)
        return ""
