"""The installer reads whom the machine's apt trusts, in both formats of its sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.install import InstallError, source_trust, version

INLINE_KEY = """\
# A comment
Types: deb
URIs: http://debian.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----
Enabled: yes

Types: deb
URIs: http://debian.example/security
Suites: bookworm-security
Components: main
Trusted: yes
"""


@pytest.mark.parametrize(
    ("line", "trust"),
    [
        ("deb http://debian.example/debian bookworm main", []),
        ("deb [signed-by=/etc/key.gpg] http://debian.example/debian bookworm main", ["Signed-By: /etc/key.gpg"]),
        (
            "deb [ arch=amd64,arm64 trusted=yes signed-by=/a.gpg,/b.gpg ] http://debian.example/ bookworm main",
            ["Trusted: yes", "Signed-By: /a.gpg /b.gpg"],
        ),
    ],
)
def test_one_line_sources(tmp_path: Path, line: str, trust: list[str]) -> None:
    path = tmp_path / "debian.list"
    path.write_text(f"# a comment\n\n{line}\n")
    assert source_trust(f"{path}:3") == trust


def test_deb822_sources(tmp_path: Path) -> None:
    path = tmp_path / "debian.sources"
    path.write_text(INLINE_KEY)
    first = source_trust(f"{path}:1")
    assert first[0] == "Signed-By:"
    assert first[1:] == INLINE_KEY.splitlines()[6:10]
    assert source_trust(f"{path}:2") == ["Trusted: yes"]
    assert source_trust(f"{path}:3") == []


def test_a_containerd_that_is_not_there() -> None:
    with pytest.raises(InstallError, match="containerd"):
        version("no-such-suite")
