"""The live page: a read model of the state directory, an ASGI application over it, and the server that runs it."""
