"""Upstream registries: what `peili run` and `peili configure` both take, and that they take the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.containerd.configure_settings import InvalidConfigureSetting, parse_registry
from peili.oci.upstream import InvalidUpstream, Upstream, parse_upstream
from peili.settings import InvalidSetting, parse_mirrored_registry

HUB = Upstream("docker.io", "https://registry-1.docker.io")
PIECES = [
    "https://",
    "http://",
    "ftp://",
    "docker.io",
    "index.",
    "registry-1.",
    "ghcr.io",
    ":5000",
    "/",
    "@",
    "[::1]",
    "\n",
]


@pytest.mark.parametrize(
    ("text", "upstream"),
    [
        ("https://ghcr.io", Upstream("ghcr.io", "https://ghcr.io")),
        ("ghcr.io", Upstream("ghcr.io", "https://ghcr.io")),
        ("GHCR.io/", Upstream("ghcr.io", "https://ghcr.io")),
        ("host:5000", Upstream("host:5000", "https://host:5000")),
        ("http://host:5000/", Upstream("host:5000", "http://host:5000")),
        ("[fd00::1]:5000", Upstream("[fd00::1]:5000", "https://[fd00::1]:5000")),
        ("docker.io", HUB),
        ("https://index.docker.io/", HUB),
        ("https://registry-1.docker.io", HUB),
    ],
)
def test_a_url_or_a_host(text: str, upstream: Upstream) -> None:
    assert parse_upstream(text) == upstream


@pytest.mark.parametrize(
    "text",
    ["", "ftp://a", "https://", "https://u:p@a", "a/b", "https://a?b", "https://a#b", "a:99999", "http://[", "a\n"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidUpstream):
        parse_upstream(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=5).map("".join))
def test_run_and_configure_take_the_same(text: str) -> None:
    try:
        host = parse_mirrored_registry(text)
    except InvalidSetting:
        with pytest.raises(InvalidConfigureSetting):
            parse_registry(text)
    else:
        assert parse_registry(text).host == host
