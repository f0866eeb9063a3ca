"""Let Genesys' platform SDK send its requests through an httpx client."""

from __future__ import annotations

from typing import Any

import httpx

__all__ = ["sdk_client"]


class _Answer:
    """An httpx response in the shape that the SDK's `ApiClient` reads."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.reason = response.reason_phrase
        self.data = response.text
        self._headers = response.headers

    def getheaders(self) -> httpx.Headers:
        return self._headers

    def getheader(self, name: str, default: str | None = None) -> str | None:
        value: str | None = self._headers.get(name, default)
        return value


def sdk_client(api_url: str, client: httpx.Client) -> Any:
    """Return an `ApiClient` of Genesys' platform SDK that sends through `client`; imports the SDK (seconds, 200 MB).

    The SDK's own transport applies no timeout and re-sends a POST whose connection dropped. This one sends each
    request once and raises `httpx.HTTPStatusError` for any answer but 2xx, which the SDK passes through.
    """
    from PureCloudPlatformClientV2 import ApiClient
    from PureCloudPlatformClientV2.abstract_http_client import AbstractHttpClient

    class HttpxTransport(AbstractHttpClient):  # type: ignore[misc]
        def request(self, http_request_options: Any) -> _Answer:
            response = client.request(
                http_request_options.method,
                httpx.URL(http_request_options.url).copy_merge_params(http_request_options.query_params),
                headers=http_request_options.headers,
                json=http_request_options.body,
            )
            return _Answer(response.raise_for_status())

    api = ApiClient(host=api_url)
    # A gateway in ~/.genesyscloudpython/config would replace the host that our configuration names.
    api.gateway_configuration = None
    api.set_http_client(HttpxTransport())
    return api
