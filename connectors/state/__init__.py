"""The state directory: private files, the audit log, the interceptor registry, Bytewax' recovery store."""
