"""Tracing: off and not even imported by default; spans to a real collector when the variables ask for them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.errors import ConfigurationError
from connectors.genesys.simulator.voice_events import running_simulator
from connectors.runtime.tracing import span, tracing_wanted
from tests.support.cli import SECRET
from tests.support.live import Live


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "voicewatch"}, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_which_variables_ask_for_tracing(environ: dict[str, str], expected: str | None) -> None:
    """An exporter or an endpoint asks for it; nothing else does, and OTEL_SDK_DISABLED has the last word."""
    assert tracing_wanted(environ) == expected


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, 'OTEL_TRACES_EXPORTER:\n  must be "otlp", "console" or "none"'),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_what_is_not_there_is_an_error(environ: dict[str, str], told: str) -> None:
    """An exporter or a protocol that voicewatch does not have is a mistake of the configuration."""
    with pytest.raises(ConfigurationError) as caught:
        tracing_wanted(environ)
    assert told in str(caught.value)


def test_a_span_costs_nothing_while_tracing_is_off() -> None:
    """The block runs, attributes go nowhere, exceptions pass, and OpenTelemetry is not loaded."""
    script = (
        "import sys\n"
        "import flows.commands.run, flows.monitoring.monitor\n"
        "from connectors.runtime.tracing import configure_tracing, span\n"
        "configure_tracing({'OTEL_SERVICE_NAME': 'x'})\n"
        "with span('s', a=1) as note: note('b', 2)\n"
        "print('opentelemetry' in {name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    with pytest.raises(ZeroDivisionError), span("s"):
        print(1 // 0)


class Collector:
    """A collector of traces on 127.0.0.1 that keeps what it is sent."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> dict[str, dict[str, str]]:
        """The spans by their names, each with its attributes, and those of its service."""
        found: dict[str, dict[str, str]] = {}
        for request in self.requests:
            for resource in request.resource_spans:
                service = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for each in scope.spans:
                        own = {one.key: one.value.string_value for one in each.attributes}
                        found[each.name] = {**service, **own}
        return found


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                kept.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Collector(server.server_address[1])
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield kept
    server.shutdown()
    server.server_close()


@pytest.mark.timeout(300)
def test_a_run_sends_spans_of_what_goes_over_the_network(tmp_path: Path) -> None:
    """Token, load check, create and callback each have a span; none of them holds a secret."""
    with (
        running_simulator(conversations=5, rate=20.0) as simulator,
        CallbackReceiver() as receiver,
        collector() as traces,
    ):
        live = Live(tmp_path, simulator.base_url, receiver.url)
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.url, "OTEL_BSP_SCHEDULE_DELAY": "100", "NO_PROXY": "127.0.0.1"}
        with live.running("run", **otel) as process:
            receiver.wait_for(2, 60.0)
            assert process.stop() == 0, process.log
    assert {"genesys token", "genesys GET", "genesys POST", "deliver callback"} <= traces.spans.keys()
    callback = traces.spans["deliver callback"]
    assert callback["service.name"] == "voicewatch"
    assert callback["server.address"] == receiver.url
    assert callback["outcome"] == "200"
    assert SECRET not in str(traces.requests)
