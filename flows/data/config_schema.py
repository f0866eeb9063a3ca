"""Make the JSON Schema of the configuration from its models, with the limits of every number."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from flows.settings.models import Settings
from flows.settings.values import Between

__all__ = ["config_schema"]


class _WithLimits(GenerateJsonSchema):
    """Generate a schema as Pydantic does, with the limits of `Between`."""

    def function_after_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().function_after_schema(schema)
        validator = schema["function"]["function"]
        if isinstance(validator, Between):
            return {**found, "minimum": validator.low, "maximum": validator.high}
        return found


def config_schema() -> dict[str, Any]:
    """Return the schema of a configuration file; a key that it does not know is an error."""
    return Settings.model_json_schema(schema_generator=_WithLimits)
