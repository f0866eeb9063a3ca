"""The AudioHook feed: Genesys dials us, and streams the audio of calls."""
