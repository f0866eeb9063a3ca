"""Make the JSON Schema of the configuration from its models, with the limits of every number."""

from __future__ import annotations

from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from flows.settings import values
from flows.settings.models import Settings
from flows.settings.values import Between, UrlRule

__all__ = ["config_schema"]


_FORMS: Final[dict[Any, dict[str, Any]]] = {
    values.non_empty: {"minLength": 1},
    values.sip_address: {"pattern": r"^sips?:\S+$"},
    values.url_path: {"pattern": r"^/[!-~]*$"},
    values.feed_name: {"pattern": r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"},
    values.environment_variable: {"pattern": r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"},
    values.header_name: {"pattern": r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$"},
    values.topic_id: {"pattern": r"^[A-Za-z0-9_-]{1,100}$"},
    values.api_key: {"pattern": r"^[a-zA-Z0-9+/_-]+={0,2}$"},
    values.host_and_port: {"pattern": r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$"},
    values.channels: {"minItems": 1, "uniqueItems": True},
}
"""What validators of single values allow, as far as JSON Schema can say it."""


class _WithLimits(GenerateJsonSchema):
    """Generate a schema as Pydantic does, with what the validators of `flows.settings.values` allow."""

    def function_after_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().function_after_schema(schema)
        validator = schema["function"]["function"]
        if isinstance(validator, Between):
            return {**found, "minimum": validator.low, "maximum": validator.high}
        if isinstance(validator, UrlRule):
            return {**found, "pattern": f"^({'|'.join(validator.schemes)})://"}
        return {**found, **_FORMS.get(validator, {})}


def config_schema() -> dict[str, Any]:
    """Return the schema of a configuration file; a key that it does not know is an error.

    A file may name its schema for editors, by the key `$schema`.
    """
    schema = Settings.model_json_schema(schema_generator=_WithLimits)
    schema["$defs"]["InterceptorSettings"]["required"] = ["conversation_id"]  # the rest may stand in [defaults]
    schema["properties"]["$schema"] = {"type": "string", "description": "the schema of this file, for editors"}
    return schema
