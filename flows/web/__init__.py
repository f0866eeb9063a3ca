"""Show a run in a browser: a read model of its state directory, an ASGI application over it, and the server."""
