"""A local Genesys: token, REST, event streams and AudioHook callers."""
