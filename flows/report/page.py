"""Write a report as one HTML file that needs nothing else: no request, no script of a stranger."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from markupsafe import Markup

from flows.web.pages import HERE, environment

__all__ = ["page_of"]

STYLES: Final = ("static/app.css", "static/vendor/uplot/uPlot.min.css", "static/report.css")
# Ours are one script, for the report uses what the drawing has.
SCRIPTS: Final = (("static/vendor/uplot/uPlot.iife.min.js",), ("static/drawing.js", "static/report.js"))


def page_of(contents: Mapping[str, Any]) -> str:
    """Return the page of a report.

    Its policy for browsers allows nothing but the styles and the scripts in it, each by its hash.
    """
    styles = [_text(name) for name in STYLES]
    scripts = ["".join(_text(name) for name in names) for names in SCRIPTS]
    charts = {
        "bars": [[bar.start, bar.end, bar.windows, bar.breaching] for bar in contents["bars"]],
        "silent": [[gap.start, gap.end] for gap in contents["now"]["coverage"].silent],
        "from": contents["period"].start,
        "to": contents["period"].end,
        "worst": [
            {
                **one["points"],
                "max_latency_ms": one["limits"] and one["limits"].max_latency_ms,
                "max_loss": one["limits"] and one["limits"].packet_loss_threshold * 100,
            }
            for one in contents["worst"]
        ],
    }
    policy = (
        f"default-src 'none'; style-src {_hashes(styles)}; script-src {_hashes(scripts)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        environment()
        .get_template("report.html")
        .render(
            **contents,
            policy=policy,
            styles=[Markup(text) for text in styles],  # noqa: S704 - files of this package
            scripts=[Markup(text) for text in scripts],  # noqa: S704 - files of this package
            data=_json(charts),
        )
    )


def _text(name: str) -> str:
    return (HERE / Path(name)).read_text("utf-8")


def _hashes(texts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _json(value: object) -> Markup:
    """Return JSON that may stand within a script element: no `<` can end it."""
    return Markup(orjson.dumps(value).decode().replace("<", "\\u003c"))  # noqa: S704 - escaped here
