"""Secrets, keys and MACs as values."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from peili.members import request_mac
from peili.members.certificate_mac import EXTENSION_OID, extension_value, is_member
from peili.members.request_mac import (
    MEMBER_HEADER,
    WINDOW,
    InvalidStamp,
    NotAMember,
    Stamp,
    check,
    check_answer,
    sign,
    sign_answer,
)
from peili.members.secret_file import read_secrets
from peili.members.secrets import (
    MAXIMUM_FILE_SIZE,
    MAXIMUM_LENGTH,
    MINIMUM_LENGTH,
    InvalidSecret,
    MemberKeys,
    parse_secrets,
)

OLD, NEW = b"the old secret of the cluster", b"the new secret of the cluster"
KEYS, OTHERS = MemberKeys.of(OLD), MemberKeys.of(NEW)
NOW = 1_790_000_000.5
TARGET = "/v2/library/app/manifests/1?ns=docker.io"


def hkdf(secret: bytes, purpose: bytes) -> bytes:
    """RFC 5869 by hand: extract, then the first block of expand."""
    extracted = hmac.digest(b"peili cluster secret", secret, "sha256")
    return hmac.digest(extracted, purpose + b"\x01", "sha256")


def test_the_keys_are_derived_as_documented() -> None:
    assert KEYS.certificate == hkdf(OLD, b"certificate 1")
    assert KEYS.request == hkdf(OLD, b"request 1")
    assert KEYS.answer == hkdf(OLD, b"answer 1")
    # Fixed for ever: nodes of two versions have to understand each other.
    together = KEYS.certificate + KEYS.request + KEYS.answer
    assert hashlib.sha256(together).hexdigest()[:16] == "cb169e2ff46db0bb"


def test_one_or_two_secrets_stand_in_the_file() -> None:
    assert parse_secrets(OLD) == parse_secrets(b"\n  " + OLD + b" \r\n\n") == (KEYS,)
    assert parse_secrets(NEW + b"\n" + OLD + b"\n") == (OTHERS, KEYS)
    assert len(parse_secrets(b"x" * MINIMUM_LENGTH)) == len(parse_secrets(b"x" * MAXIMUM_LENGTH)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"x" * (MINIMUM_LENGTH - 1), "at least 16 bytes"),
        (OLD + b"\nshort", "at least 16 bytes"),
        (b"x" * (MAXIMUM_LENGTH + 1), "at most 1024 bytes"),
        (OLD + b"\n" + NEW + b"\n" + OLD, "one or two"),
        (b"x" * (MAXIMUM_FILE_SIZE + 1), "more than 4096 bytes"),
        (b"\0" * 32, "control characters"),
    ],
)
def test_other_files_are_refused_without_a_word_of_what_is_in_them(
    content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(InvalidSecret, match=words) as caught:
        read_secrets(path)
    assert str(path) in str(caught.value)
    assert "short" not in str(caught.value).replace(str(path), "")
    assert "xxx" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidSecret, match="cannot be read"):
            read_secrets(path)


def test_secrets_and_keys_are_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(OLD)
    shown = repr(read_secrets(path)) + repr(KEYS) + str(KEYS)
    assert "old secret" not in shown
    assert repr(KEYS) == "MemberKeys()"


def test_a_certificates_mac_is_good_for_its_public_key_and_secret_only() -> None:
    value = extension_value(KEYS.certificate, b"a public key")
    assert value == b"\x04\x20" + hmac.digest(KEYS.certificate, b"a public key", "sha256")
    assert is_member([KEYS.certificate], b"a public key", value)
    assert is_member([OTHERS.certificate, KEYS.certificate], b"a public key", value)
    assert not is_member([KEYS.certificate], b"another public key", value)
    assert not is_member([OTHERS.certificate], b"a public key", value)
    assert not is_member([KEYS.request], b"a public key", value)
    for bad in (None, b"", value[:-1], value + b"\0", bytes(34)):
        assert not is_member([KEYS.certificate], b"a public key", bad)


def test_go_can_read_the_extensions_name() -> None:
    assert all(int(arc) < 2**31 for arc in EXTENSION_OID.split("."))


def test_a_requests_stamp_is_good_for_that_request() -> None:
    stamp = sign(KEYS.request, "GET", TARGET, NOW)
    expected = hmac.digest(KEYS.request, f"1\nGET\n{TARGET}\n1790000000".encode(), "sha256")
    assert str(stamp) == f"1 1790000000 {expected.hex()}"
    check([KEYS.request], str(stamp), "GET", TARGET, NOW)
    check([OTHERS.request, KEYS.request], str(stamp), "GET", TARGET, NOW)
    for keys, method, target in (
        ([OTHERS.request], "GET", TARGET),
        ([], "GET", TARGET),
        ([KEYS.certificate], "GET", TARGET),
        ([KEYS.request], "HEAD", TARGET),
        ([KEYS.request], "GET", TARGET.replace("docker.io", "ghcr.io")),
        ([KEYS.request], "GET", TARGET.partition("?")[0]),
    ):
        with pytest.raises(NotAMember, match="another cluster secret"):
            check(keys, str(stamp), method, target, NOW)
    later = Stamp(stamp.time + 1, stamp.mac)
    with pytest.raises(NotAMember, match="another cluster secret"):
        check([KEYS.request], str(later), "GET", TARGET, NOW)


def test_a_stamp_is_good_for_a_minute_around_its_time() -> None:
    stamp = str(sign(KEYS.request, "GET", TARGET, NOW))
    for offset in (-WINDOW - 0.5, WINDOW - 0.5, 0):
        check([KEYS.request], stamp, "GET", TARGET, NOW + offset)
    for offset in (-WINDOW - 1, WINDOW + 1):
        with pytest.raises(NotAMember, match="clocks of the two nodes differ by 6"):
            check([KEYS.request], stamp, "GET", TARGET, NOW + offset)


def test_a_stranger_learns_nothing_of_our_clock() -> None:
    with pytest.raises(NotAMember, match="another cluster secret"):
        check([OTHERS.request], str(sign(KEYS.request, "GET", TARGET, NOW)), "GET", TARGET, NOW + 5000)
    with pytest.raises(NotAMember, match=f"no {MEMBER_HEADER}"):
        check([OTHERS.request], None, "GET", TARGET, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1 5", f"2 5 {'0' * 64}", f"1 -5 {'0' * 64}", f"1 05 {'0' * 64}", f"1 5 {'0' * 63}",
        f"1 5 {'0' * 65}", f"1 5 {'A' * 64}", f"1  5 {'0' * 64}", f"1 5 {'0' * 64}\n", f"1 \u0665 {'0' * 64}",
        f"1 {'9' * 13} {'0' * 64}", f"1 5.5 {'0' * 64}",
    ],
)  # fmt: skip
def test_other_headers_are_no_stamp(text: str) -> None:
    with pytest.raises(InvalidStamp):
        Stamp.parse(text)
    with pytest.raises(NotAMember, match="not of the form"):
        request_mac.check([KEYS.request], text, "GET", TARGET, NOW)


def test_the_answer_for_a_tag_is_good_for_that_request_and_content() -> None:
    stamp = sign(KEYS.request, "GET", TARGET, NOW)
    answer = sign_answer(KEYS.answer, stamp, "sha256:aa", "a/type")
    expected = hmac.digest(KEYS.answer, f"1\n{stamp.mac.hex()}\nsha256:aa\na/type".encode(), "sha256")
    assert answer == f"1 {expected.hex()}"
    check_answer([OTHERS.answer, KEYS.answer], stamp, answer, "sha256:aa", "a/type")
    later = sign(KEYS.request, "GET", TARGET, NOW + 1)
    for key, question, text, digest, media_type in (
        (OTHERS.answer, stamp, answer, "sha256:aa", "a/type"),
        (KEYS.request, stamp, answer, "sha256:aa", "a/type"),
        (KEYS.answer, later, answer, "sha256:aa", "a/type"),
        (KEYS.answer, stamp, answer, "sha256:bb", "a/type"),
        (KEYS.answer, stamp, answer, "sha256:aa", "b/type"),
        (KEYS.answer, stamp, answer + " ", "sha256:aa", "a/type"),
        (KEYS.answer, stamp, str(stamp), "sha256:aa", "a/type"),
        (KEYS.answer, stamp, "", "sha256:aa", "a/type"),
        (KEYS.answer, stamp, "\udcff\u20ac", "sha256:aa", "a/type"),
        (KEYS.answer, stamp, None, "sha256:aa", "a/type"),
    ):
        with pytest.raises(NotAMember):
            check_answer([key], question, text, digest, media_type)
