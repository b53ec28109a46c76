"""Any bytes are a secret, a stamp or an extension, or are refused; a MAC fits only what it was made of."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.members.certificate_mac import extension_value, is_member
from peili.members.request_mac import InvalidStamp, NotAMember, Stamp, check, sign
from peili.members.secrets import InvalidSecret, MemberKeys, parse_secrets
from tests.properties.effort import examples

KEYS = MemberKeys.of(b"a secret of the cluster")
MODERATE = settings(deadline=None, max_examples=examples(200))
LIKE_A_STAMP = st.from_regex(r"[012]? ?-?[0-9]{0,14} ?[0-9a-fA-F]{60,66}", fullmatch=True)


@MODERATE
@given(st.binary(max_size=5000) | st.lists(st.binary(max_size=60), max_size=4).map(b"\n".join))
def test_any_bytes_are_secrets_or_are_refused(content: bytes) -> None:
    with suppress(InvalidSecret):
        assert 1 <= len(parse_secrets(content)) <= 2


@MODERATE
@given(st.text(max_size=120) | LIKE_A_STAMP)
def test_any_text_is_a_stamp_or_is_refused(text: str) -> None:
    with suppress(InvalidStamp):
        assert str(Stamp.parse(text)) == text
    with suppress(NotAMember):
        check([KEYS.request], text, "GET", "/v2/", 0)
        raise AssertionError("nobody can guess a MAC")


@MODERATE
@given(st.tuples(st.text(max_size=8), st.text(max_size=40)), st.tuples(st.text(max_size=8), st.text(max_size=40)),
       st.integers(0, 10**10))  # fmt: skip
def test_a_stamp_fits_one_request_only(one: tuple[str, str], other: tuple[str, str], now: int) -> None:
    one, other = (one[0].replace("\n", ""), one[1]), (other[0].replace("\n", ""), other[1])
    stamp = str(sign(KEYS.request, *one, now))
    check([KEYS.request], stamp, *one, now)
    if one != other:
        with suppress(NotAMember):
            check([KEYS.request], stamp, *other, now)
            raise AssertionError("it fits another request")


@MODERATE
@given(st.binary(max_size=100), st.binary(max_size=40))
def test_any_bytes_are_an_extension_that_is_refused(public_key: bytes, value: bytes) -> None:
    assert not is_member([KEYS.certificate], public_key, value)
    assert is_member([KEYS.certificate], public_key, extension_value(KEYS.certificate, public_key))
