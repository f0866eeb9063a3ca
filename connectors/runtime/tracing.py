"""Spans for what goes over the network, through OpenTelemetry's standard `OTEL_*` variables.

Off unless one of them asks for it, and then OpenTelemetry is not even imported. It is an extra of the package:
`pip install "voicewatch[otel]"`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from connectors.errors import ConfigurationError

__all__ = ["configure_tracing", "span", "tracing_wanted"]

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTERS: Final = ("otlp", "console")

_tracer: Any = None


def tracing_wanted(environ: Mapping[str, str]) -> str | None:
    """Return the exporter that the variables ask for, `otlp` or `console`; None if tracing is off.

    Raises ConfigurationError for an exporter or a protocol that is not there.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    asked = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(environ.get(name) for name in _ENDPOINTS) else "none")
    if asked == "none":
        return None
    if asked not in _EXPORTERS:
        raise ConfigurationError("OTEL_TRACES_EXPORTER", [f'must be "otlp", "console" or "none", not "{asked}"'])
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if asked == "otlp" and environ.get(name, "http/protobuf") not in ("", "http/protobuf"):
            raise ConfigurationError(name, ['must be "http/protobuf", the only protocol that is there'])
    return asked


def configure_tracing(environ: Mapping[str, str]) -> None:
    """Send spans from now on, if the variables ask for it. To be called once or more, before anything is traced.

    Spans are sent from a thread of OpenTelemetry's, and what is left when the process ends. Raises ConfigurationError
    if the extra is not installed.
    """
    global _tracer  # noqa: PLW0603 - like the logs, one for the process
    exporter = tracing_wanted(environ)
    if exporter is None or _tracer is not None:
        return
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

        if exporter == "otlp":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        advice = 'is not installed; pip install "voicewatch[otel]", or unset the OTEL_ variables'
        raise ConfigurationError("OpenTelemetry", [advice]) from error
    from opentelemetry.sdk.resources import Resource

    # Its own variables take precedence over a name given here.
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "voicewatch"}
    provider = TracerProvider(resource=Resource.create(named))
    sink: SpanExporter = OTLPSpanExporter() if exporter == "otlp" else _console(ConsoleSpanExporter)
    provider.add_span_processor(BatchSpanProcessor(sink))
    _tracer = provider.get_tracer("voicewatch")


def _console(exporter: Callable[..., Any]) -> Any:
    import sys

    return exporter(out=sys.stderr)  # standard output is for results


@contextlib.contextmanager
def span(name: str, **attributes: str | int) -> Iterator[Callable[[str, str | int], None]]:
    """Trace a block as a span; yield a function that adds an attribute. Underscores of names become dots.

    An exception that leaves the block is noted in the span. Nothing happens while tracing is off.
    """
    if _tracer is None:
        yield _nothing
        return
    dotted = {key.replace("_", "."): value for key, value in attributes.items()}
    with _tracer.start_as_current_span(name, attributes=dotted) as current:
        yield lambda key, value: current.set_attribute(key.replace("_", "."), value)


def _nothing(key: str, value: str | int) -> None:
    """Take an attribute of a span that is not there."""
