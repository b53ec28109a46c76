from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from peili.containerd.backup import DamagedRecord, parse_record
from peili.containerd.check import judge_answer
from peili.containerd.configure_settings import (
    ConfigureSettings,
    InvalidConfigureSetting,
    is_registry_directory,
    lookup_names,
    mirror_hosts,
    parse_registry,
    registries,
)
from peili.containerd.facts import parse_version
from peili.containerd.plugin_settings import InvalidContainerdConfig, read_plugin_settings
from tests.properties.effort import examples

EXAMPLES = 150
texts = st.text(max_size=40)
urls = texts | st.builds(lambda scheme, rest: f"{scheme}://{rest}", st.sampled_from(["http", "https"]), texts)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
RECORD = {"format": 1, "files": {}, "created": [], "above": [], "targets": [], "modified": None}


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(st.lists(urls, max_size=3), st.lists(urls, max_size=3), st.none() | texts)
def test_any_settings_are_taken_or_refused(targets: list[str], names: list[str], basic_auth: str | None) -> None:
    given_settings = ConfigureSettings(Path("/x"), tuple(targets), tuple(names), basic_auth=basic_auth)
    try:
        hosts = mirror_hosts(given_settings)
        wanted = registries(given_settings)
    except InvalidConfigureSetting:
        return
    assert hosts
    for registry in wanted:
        assert parse_registry(registry.server).server
        assert all("/" not in name and not name.startswith(".") for name in lookup_names(registry.host))


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(st.from_regex(r"[a-z0-9]{1,4}(\.[a-z0-9]{1,4}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True))
def test_a_registry_can_be_looked_for_under_all_its_names(host: str) -> None:
    assert all(is_registry_directory(name) for name in lookup_names(parse_registry(f"https://{host}").host))


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_record_is_read_or_damaged(content: bytes) -> None:
    try:
        parse_record(content)
    except DamagedRecord:
        return


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(st.sampled_from(sorted(RECORD)), json_values)
def test_a_record_with_one_odd_part_is_read_or_damaged(key: str, value: object) -> None:
    try:
        record = parse_record(json.dumps({**RECORD, key: value}).encode())
    except DamagedRecord:
        return
    assert all(
        not path.startswith("/") and ".." not in path.split("/") for path in [*record.files, *record.created]
    )


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(st.binary(max_size=300), st.sampled_from([None, 1, 2]))
def test_any_config_is_read_or_refused(content: bytes, major: int | None) -> None:
    try:
        read_plugin_settings(Path("/config.toml"), lambda _: content, lambda _: [], major)
    except InvalidContainerdConfig:
        return


@settings(deadline=None, max_examples=examples(EXAMPLES))
@given(texts, st.binary(max_size=100))
def test_any_version_and_any_answer_are_judged(version: str, answer: bytes) -> None:
    parse_version(version)
    judge_answer("a:1", "/v2/", answer, frozenset({200}))
