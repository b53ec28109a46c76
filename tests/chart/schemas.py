"""Whether objects are what Kubernetes takes: its own schemas, strictly, and small ones for the operator's kinds."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from tests.chart.rendering import Object

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "type": "object",
    "required": ["name", "namespace"],
    "properties": {"labels": _TEXTS, "annotations": _TEXTS},
}
# Of monitoring.coreos.com/v1 only what the chart writes: a field that is not here is a mistake.
_SERVICE_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["endpoints", "selector"],
    "properties": {
        "namespaceSelector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"matchNames": {"type": "array", "items": {"type": "string"}}},
        },
        "selector": {"type": "object", "additionalProperties": False, "properties": {"matchLabels": _TEXTS}},
        "endpoints": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["port"],
                "properties": {
                    "port": {"type": "string"},
                    "path": {"type": "string"},
                    "interval": {"type": "string", "pattern": "^[0-9]+[sm]$"},
                    "relabelings": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "sourceLabels": {"type": "array", "items": {"type": "string"}},
                                "targetLabel": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}
_RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["alert", "expr", "labels", "annotations"],
    "properties": {
        "alert": {"type": "string", "pattern": "^Peili[A-Za-z]+$"},
        "expr": {"type": "string"},
        "for": {"type": "string", "pattern": "^[0-9]+[smhd]$"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
}
_PROMETHEUS_RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["groups"],
    "properties": {
        "groups": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "rules"],
                "properties": {"name": {"type": "string"}, "rules": {"type": "array", "items": _RULE}},
            },
        }
    },
}
_OPERATORS = {"ServiceMonitor": _SERVICE_MONITOR, "PrometheusRule": _PROMETHEUS_RULE}


def validate(one: Object, version: str) -> None:
    """Raise jsonschema's ValidationError where an object is not what this version of Kubernetes takes."""
    if one["apiVersion"] == "monitoring.coreos.com/v1":
        properties = {"apiVersion": {}, "kind": {}, "metadata": _METADATA, "spec": _OPERATORS[one["kind"]]}
        schema = {"type": "object", "additionalProperties": False, "required": ["spec"], "properties": properties}
        importlib.import_module("jsonschema").validate(one, schema)
        return
    importlib.import_module("kubernetes_validate").validate(one, version, strict=True)


def versions() -> list[str]:
    """The versions of Kubernetes whose schemas are there, the oldest first."""
    found: list[str] = importlib.import_module("kubernetes_validate.utils").all_versions()
    return found


def validate_values(values: Any, schema: Path) -> None:
    """Raise ValidationError where values are not as the chart's own schema says."""
    importlib.import_module("jsonschema").validate(values, json.loads(schema.read_text()))
